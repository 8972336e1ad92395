//! An API server that is away while an admin's command waits, as when it is restarted.
//!
//! Owns: how long that is outlasted. Must not ask, wait or tell. Called by: `rollout`, `patience`.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::CliError;

/// One that is away for so long ends the command.
const LONGEST: Duration = Duration::from_secs(30);

/// Since when it is away.
#[derive(Debug, Default)]
pub(super) struct ApiServerOutage(Option<Instant>);

impl ApiServerOutage {
    /// What was answered just now, or why nothing is yet. What the server refuses, and what lasts too long, is a failure.
    pub(super) fn outlast<T>(
        &mut self,
        answer: Result<T, CliError>,
        now: Instant,
    ) -> Result<Result<T, String>, CliError> {
        match answer {
            Ok(answer) => {
                self.0 = None;
                Ok(Ok(answer))
            }
            Err(CliError::Away(why)) if now.duration_since(*self.0.get_or_insert(now)) <= LONGEST => Ok(Err(why)),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absence_is_outlasted_and_a_refusal_is_not() {
        let begin = Instant::now();
        let away = || Err::<u8, _>(CliError::Away("refused".to_owned()));
        let mut absence = ApiServerOutage::default();
        for now in [begin, begin + LONGEST] {
            assert_eq!(absence.outlast(away(), now), Ok(Err("refused".to_owned())));
        }
        // It was there in between: that counts from the beginning.
        assert_eq!(absence.outlast(Ok(1), begin + LONGEST), Ok(Ok(1)));
        let again = begin + 2 * LONGEST;
        assert_eq!(absence.outlast(away(), again), Ok(Err("refused".to_owned())));
        assert_eq!(absence.outlast(away(), again + LONGEST + Duration::from_secs(1)), away().map(Ok));
        for error in [CliError::Forbidden("no".to_owned()), CliError::Failed("not there".to_owned())] {
            assert_eq!(ApiServerOutage::default().outlast(Err::<u8, _>(error.clone()), begin), Err(error));
        }
    }
}
