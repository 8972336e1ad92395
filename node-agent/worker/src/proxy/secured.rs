//! What was agreed with the app for a decrypted connection, and the handshakes with it.
//!
//! Called by `decrypt` for the first leg, and by `route` for those that follow.

use std::{sync::Arc, time::Duration};

use redir_wire::ClientTls;
use rustls::sign::CertifiedKey;
use tokio::time::timeout;

use super::{leg::LegError, transport::Transport};
use crate::{
    tls::{Agreed, AppError, Finding, Given, Offer, handshake},
    upstream::AppLeg,
};

/// How long the app may take for its part, on the same machine.
pub(super) const APP: Duration = Duration::from_secs(10);

/// What was agreed for a decrypted connection: its further legs are like the first.
pub(super) struct Secured {
    pub(super) offer: Offer,
    pub(super) given: Arc<Given>,
    /// For the developer's side.
    pub(super) client: ClientTls,
}

impl Secured {
    /// Makes a further leg to the app like the first.
    pub(super) async fn secure(&self, leg: AppLeg) -> Result<Transport<AppLeg>, LegError> {
        match timeout(APP, decide(&leg, &self.offer, &self.given)).await {
            Ok(Ok((agreed, _))) if agreed.protocol == self.client.alpn => Ok(Transport::new(leg, Some(agreed.session))),
            Ok(Ok(_) | Err(_)) | Err(_) => Err(LegError::Handshake),
        }
    }
}

/// Shakes hands with the app, and sees that it is the one whose certificate is given.
pub(super) async fn decide(leg: &AppLeg, offer: &Offer, given: &Given) -> Result<(Agreed, Arc<CertifiedKey>), Finding> {
    let error = match handshake(&leg.stream, offer).await {
        Ok(agreed) => match given.signer(&agreed) {
            Some(key) => return Ok((agreed, key)),
            None => {
                agreed.leave(&leg.stream);
                return Err(Finding::OtherCertificate);
            }
        },
        Err(error) => error,
    };
    tracing::debug!(%error, "no session with the app");
    Err(match error {
        AppError::ClientCertificate => {
            given.note_asking(true);
            Finding::ClientCertificate
        }
        AppError::NotTls => Finding::Clear,
        AppError::Refused(_) | AppError::Failed(_) => Finding::Refused,
    })
}
