//! Which of its addresses the API server is asked at, and when it counts as heard.

use serde_json::json;

use super::*;

fn slice(endpoints: &serde_json::Value) -> EndpointSlice {
    let whole = json!({"addressType": "IPv4", "metadata": {}, "ports": [{"name": "https", "port": 6443}], "endpoints": endpoints});
    serde_json::from_value(whole).expect("an EndpointSlice")
}

#[test]
fn the_addresses_of_servers_that_are_ready_are_taken() {
    let read = addresses(&slice(&json!([
        {"addresses": ["192.0.2.1"]},
        {"addresses": ["192.0.2.2"], "conditions": {"ready": false}},
        {"addresses": ["2001:db8::3", "no address"], "conditions": {"ready": true}},
    ])));
    assert_eq!(read, ["https://192.0.2.1:6443", "https://[2001:db8::3]:6443"].map(Uri::from_static));
    assert_eq!(addresses(&slice(&json!([]))), [] as [Uri; 0]);
}

#[tokio::test]
async fn an_address_that_answered_is_asked_first_also_when_the_others_change() {
    let base = Config::new(Uri::from_static("https://192.0.2.10"));
    let server = ApiServer::new(base, None, watch::Sender::default()).expect("made");
    let url = |host: u8| format!("https://192.0.2.{host}:6443").parse::<Uri>().expect("a URL");
    let first = |server: &ApiServer| {
        let servers = server.servers();
        servers.all[servers.first].url.clone()
    };
    server.learn(vec![url(1), url(2)]);
    server.prefer(2, &url(2));
    server.learn(vec![url(3), url(2), url(1)]);
    assert_eq!(first(&server), url(2));
    // The index is of another list.
    server.prefer(1, &url(1));
    assert_eq!(first(&server), url(2));
    server.learn(Vec::new());
    let count = server.servers().all.len();
    assert_eq!((count, first(&server)), (4, url(2)), "a server that ends takes itself out");
    server.learn(vec![url(4)]);
    assert_eq!(first(&server), Uri::from_static("https://192.0.2.10"));
}

/// One server at a fixed address, which is heard.
fn heard_at(url: &str) -> ApiServer {
    let base = Config::new(url.parse().expect("a URL"));
    let server = ApiServer::new(base, None, watch::Sender::default()).expect("made");
    server.note(None);
    server
}

#[tokio::test]
async fn a_server_that_takes_connections_and_does_not_answer_is_not_heard() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let server = heard_at(&format!("http://{}", listener.local_addr().expect("bound")));
    let accepting = tokio::spawn(async move {
        let mut taken = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            taken.push(stream);
        }
    });
    let request = Request::get("/api/v1/nodes/n1").body(Body::empty()).expect("a request");
    // As its callers do: they are gone before anything else ends.
    let asked = timeout(redir_rig::wait::scaled(LOOK * 12), server.client().send(request)).await;
    assert!(matches!(asked, Ok(Err(_))), "{asked:?}");
    assert!(!server.is_heard());
    accepting.abort();
}

#[test]
fn callers_wait_longer_than_an_answer_may_take() {
    let limit = |uri: &'static str| answer_limit(&Uri::from_static(uri));
    assert_eq!(limit("/api/v1/nodes/n1?fieldManager=a&force=true"), ANSWER);
    assert_eq!(limit("/api/v1/pods?limit=500"), LONG_ANSWER);
    assert_eq!(limit("/api/v1/pods?timeoutSeconds=60&watch=true"), LONG_ANSWER);
}

/// `/readyz` answers and the work does not: whoever waits between tries is not woken by each turn of that.
#[tokio::test(start_paused = true)]
async fn only_a_return_from_silence_counts() {
    let server = heard_at("https://192.0.2.10");
    let silent: Option<&dyn std::fmt::Display> = Some(&"503");
    let first = server.returns();
    for _ in 0..9 {
        server.note(silent);
        sleep(Duration::from_secs(1)).await;
        server.note(None);
    }
    assert_eq!(server.returns(), first, "it answers this and not that");
    server.note(silent);
    let waiting = server.clone();
    let waiting = tokio::spawn(async move { waiting.heard_again().await });
    sleep(LONG_SILENCE).await;
    server.note(None);
    waiting.await.expect("woken");
    assert_eq!(server.returns(), first + 1, "it was away");
    server.note(silent);
    server.note(None);
    sleep(RETURNS).await;
    server.note(silent);
    server.note(None);
    assert_eq!(server.returns(), first + 2, "the last return is long ago");
}

#[test]
fn one_that_refuses_is_heard_and_what_stands_before_it_is_not() {
    for (status, heard) in
        [(200, true), (403, true), (429, true), (500, true), (401, false), (502, false), (503, false)]
    {
        assert_eq!(answers(StatusCode::from_u16(status).expect("a status")), heard, "{status}");
    }
}
