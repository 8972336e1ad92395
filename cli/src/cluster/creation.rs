//! The making of an Intercept, which may be repeated when no answer came.
//!
//! Owns: that there is one afterwards, not two. Must not decide when to repeat it. Called by: `lease`.

use kube::Api;
use kube::api::PostParams;
use redir_api::Intercept;

/// Makes it. One that is there already, of this key and user, was made by a call whose answer did not come.
pub(super) async fn create(api: &Api<Intercept>, wanted: &Intercept) -> Result<Intercept, kube::Error> {
    let refused = match api.create(&PostParams::default(), wanted).await {
        Err(error) if is_there(&error) => error,
        answer => return answer,
    };
    match api.get_opt(wanted.metadata.name.as_deref().unwrap_or_default()).await? {
        Some(found) if is_same(&found, wanted) => Ok(found),
        Some(_) | None => Err(refused),
    }
}

/// Quotas answer with the same code, and another reason.
fn is_there(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_already_exists())
}

fn is_same(found: &Intercept, wanted: &Intercept) -> bool {
    let is_ending = found.metadata.deletion_timestamp.is_some();
    !is_ending && found.spec.developer_key == wanted.spec.developer_key && found.spec.user == wanted.spec.user
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    use std::net::TcpListener;
    use std::thread;

    use kube::{Client, Config};
    use serde_json::{Value, json};

    use super::*;

    fn intercept(key: &str) -> Value {
        json!({
            "apiVersion": "redir.dev/v1alpha1", "kind": "Intercept",
            "metadata": {"name": "web-1", "namespace": "shop", "uid": "1"},
            "spec": {"target": {"kind": "Deployment", "name": "web"}, "port": "80", "developerKey": key, "user": "alice"},
        })
    }

    fn refused(reason: &str) -> (u16, Value) {
        (409, json!({"kind": "Status", "status": "Failure", "message": "no", "reason": reason, "code": 409}))
    }

    /// Answers in this order, one connection each; what was asked for comes back.
    fn server(answers: Vec<(u16, Value)>) -> (String, thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let mut answers = VecDeque::from(answers);
        let asked = thread::spawn(move || {
            let mut asked = Vec::new();
            while let Some((code, body)) = answers.pop_front() {
                let mut connection = BufReader::new(listener.accept().unwrap().0);
                let (mut request, mut length) = (String::new(), 0);
                connection.read_line(&mut request).unwrap();
                loop {
                    let mut line = String::new();
                    connection.read_line(&mut line).unwrap();
                    match line.trim_end().to_ascii_lowercase().split_once(": ") {
                        Some(("content-length", number)) => length = number.parse().unwrap(),
                        Some(_) => (),
                        None => break,
                    }
                }
                connection.read_exact(&mut vec![0; length]).unwrap();
                let body = body.to_string();
                let head = "content-type: application/json\r\nconnection: close";
                let answer = format!("HTTP/1.1 {code} OK\r\n{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                connection.get_mut().write_all(answer.as_bytes()).unwrap();
                asked.push(request.split(' ').next().unwrap().to_owned());
            }
            asked
        });
        (address, asked)
    }

    /// What becomes of it, and what was asked.
    async fn made(answers: Vec<(u16, Value)>) -> (Result<String, u16>, Vec<String>) {
        let (address, asked) = server(answers);
        let client = Client::try_from(Config::new(address.parse().unwrap())).unwrap();
        let wanted = serde_json::from_value(intercept("mine")).unwrap();
        let made = create(&Api::namespaced(client, "shop"), &wanted).await;
        let made = made.map(|object| object.metadata.uid.unwrap()).map_err(|error| match error {
            kube::Error::Api(status) => status.code,
            error => panic!("{error}"),
        });
        (made, asked.join().unwrap())
    }

    #[tokio::test]
    async fn one_whose_answer_was_lost_is_taken_for_made() {
        let both = ["POST", "GET"].map(str::to_owned);
        let there = || refused("AlreadyExists");
        assert_eq!(made(vec![there(), (200, intercept("mine"))]).await, (Ok("1".to_owned()), both.to_vec()));
        assert_eq!(made(vec![there(), (200, intercept("another's"))]).await, (Err(409), both.to_vec()));
        let mut ending = intercept("mine");
        ending["metadata"]["deletionTimestamp"] = json!("2026-11-23T19:03:04Z");
        assert_eq!(made(vec![there(), (200, ending)]).await.0, Err(409));
        // A quota that was counted meanwhile.
        assert_eq!(made(vec![refused("Conflict")]).await, (Err(409), both[..1].to_vec()));
    }
}
