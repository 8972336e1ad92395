//! What goes through a stream, and how streams end.

use bytes::Bytes;
use h2::{Reason, ext::Protocol};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};

use super::rig::{Rig, get, post, pour, rest, soon, whole};

#[tokio::test]
async fn a_request_and_its_answer_are_passed_as_they_are() {
    let mut rig = Rig::new().await;
    let request = post("/a/b?c=d&e")
        .header("x-twice", "one")
        .header("te", "trailers")
        .header("cookie", "a=1")
        .header("x-twice", "two")
        .header("cookie", "b=2")
        .header("x-empty", "");
    let (response, mut body) = rig.ask(request, false).await;
    body.send_data(Bytes::from_static(b"question"), false).unwrap();
    let trailers = HeaderMap::from_iter(
        [("x-sum".parse().unwrap(), HeaderValue::from_static("7"))].map(|(n, v): (http::HeaderName, _)| (n, v)),
    );
    body.send_trailers(trailers.clone()).unwrap();

    let (request, mut respond) = rig.arrival().await;
    assert_eq!(request.method(), Method::POST);
    assert_eq!(request.uri(), "http://web/a/b?c=d&e");
    let all = |name: &str| request.headers().get_all(name).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>();
    assert_eq!(all("x-twice"), [b"one", b"two"]);
    assert_eq!(all("cookie"), [b"a=1", b"b=2"]);
    assert_eq!(all("te"), [b"trailers"]);
    assert_eq!(all("x-empty"), [b""]);
    assert_eq!(request.headers().len(), 6, "{:?}", request.headers());
    let (got, got_trailers) = rest(request.into_body()).await.unwrap();
    assert_eq!(got, b"question");
    assert_eq!(got_trailers, Some(trailers));

    for status in [100, 103] {
        let hint = Response::builder().status(status).header("link", "</x>").body(()).unwrap();
        respond.send_informational(hint).unwrap();
    }
    let head = Response::builder().status(207).header("x-a", "1").header("x-a", "2").body(()).unwrap();
    let mut answer = respond.send_response(head, false).unwrap();
    answer.send_data(Bytes::from_static(b"answer"), false).unwrap();
    let mut end = HeaderMap::new();
    end.insert("grpc-status", HeaderValue::from_static("0"));
    answer.send_trailers(end.clone()).unwrap();

    let mut response = response;
    for status in [100, 103] {
        let hint = soon(std::future::poll_fn(|cx| response.poll_informational(cx))).await.unwrap().unwrap();
        assert_eq!((hint.status().as_u16(), hint.headers()["link"].as_bytes()), (status, &b"</x>"[..]));
    }
    let (head, body, trailers) = whole(response).await;
    assert_eq!(head.status.as_u16(), 207);
    assert_eq!(head.headers.get_all("x-a").iter().collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!(head.headers.len(), 2);
    assert_eq!((&body[..], trailers), (&b"answer"[..], Some(end)));
}

#[tokio::test]
async fn an_end_goes_with_what_it_came_with() {
    let mut rig = Rig::new().await;
    // Trailers alone, as a gRPC error: END_STREAM with the head.
    let (response, _) = rig.ask(post("/"), true).await;
    let (request, mut respond) = rig.arrival().await;
    assert!(request.body().is_end_stream());
    let error = Response::builder().header("grpc-status", "5").body(()).unwrap();
    respond.send_response(error, true).unwrap();
    let response = soon(response).await.unwrap();
    assert!(response.body().is_end_stream());
    assert_eq!(response.headers()["grpc-status"], "5");

    // An answer to HEAD has a length and no body.
    let (response, _) = rig.ask(Request::head("http://web/"), true).await;
    let (_, mut respond) = rig.arrival().await;
    respond.send_response(Response::builder().header("content-length", "10").body(()).unwrap(), true).unwrap();
    let (head, body, _) = whole(response).await;
    assert_eq!((head.headers["content-length"].as_bytes(), body.len()), (&b"10"[..], 0));

    // A body of nothing.
    let (response, mut body) = rig.ask(post("/"), false).await;
    body.send_data(Bytes::new(), true).unwrap();
    let (request, mut respond) = rig.arrival().await;
    assert_eq!(rest(request.into_body()).await.unwrap(), (vec![], None));
    respond.send_response(Response::new(()), true).unwrap();
    whole(response).await;
}

#[tokio::test]
async fn both_directions_flow_at_once_and_each_ends_for_itself() {
    let mut rig = Rig::new().await;
    let (response, mut up) = rig.ask(post("/chat"), false).await;
    let (request, mut respond) = rig.arrival().await;
    let mut down = respond.send_response(Response::new(()), false).unwrap();
    let mut heard = request.into_body();
    let mut answer = soon(response).await.unwrap().into_body();
    for n in 0..100u8 {
        up.send_data(vec![n; 10].into(), false).unwrap();
        let got = soon(heard.data()).await.unwrap().unwrap();
        assert_eq!(got[..], [n; 10]);
        heard.flow_control().release_capacity(10).unwrap();
        down.send_data(got, false).unwrap();
        let got = soon(answer.data()).await.unwrap().unwrap();
        assert_eq!(got[..], [n; 10]);
        answer.flow_control().release_capacity(10).unwrap();
    }
    // The answer ends first; what is asked goes on.
    down.send_data(Bytes::new(), true).unwrap();
    assert_eq!(rest(answer).await.unwrap().0, b"");
    up.send_data(Bytes::from_static(b"more"), true).unwrap();
    assert_eq!(rest(heard).await.unwrap().0, b"more");
}

#[tokio::test]
async fn a_reset_keeps_its_code_in_both_directions() {
    let mut rig = Rig::new().await;
    for reason in [Reason::CANCEL, Reason::REFUSED_STREAM, Reason::ENHANCE_YOUR_CALM, Reason::from(0xabcd)] {
        // By the client, before and after the answer's head.
        for answered in [false, true] {
            let (response, mut up) = rig.ask(post("/"), false).await;
            let (request, mut respond) = rig.arrival().await;
            let mut body = request.into_body();
            if answered {
                respond.send_response(Response::new(()), false).unwrap();
                let _response = soon(response).await.unwrap();
                up.send_reset(reason);
            } else {
                up.send_reset(reason);
                drop(response);
            }
            let error = soon(body.data()).await.unwrap().unwrap_err();
            assert_eq!(error.reason(), Some(reason));
        }
        // By the client, when it has nothing more to say.
        let (response, mut up) = rig.ask(get("/"), true).await;
        let (_, mut respond) = rig.arrival().await;
        up.send_reset(reason);
        let reset = soon(std::future::poll_fn(|cx| respond.poll_reset(cx))).await.unwrap();
        assert_eq!(reset, reason);
        drop(response);
        // By the app, before and after its head.
        let (response, _up) = rig.ask(post("/"), false).await;
        rig.arrival().await.1.send_reset(reason);
        assert_eq!(soon(response).await.unwrap_err().reason(), Some(reason));
        let (response, _up) = rig.ask(post("/"), false).await;
        let (_, mut respond) = rig.arrival().await;
        let mut answer = respond.send_response(Response::new(()), false).unwrap();
        let response = soon(response).await.unwrap();
        answer.send_reset(reason);
        assert_eq!(rest(response.into_body()).await.unwrap_err().reason(), Some(reason));
    }
    rig.works("/after").await;
}

#[tokio::test]
async fn what_came_before_a_reset_is_passed_before_it() {
    let mut rig = Rig::new().await;
    for _ in 0..20 {
        let (response, _) = rig.ask(get("/"), true).await;
        let (_, mut respond) = rig.arrival().await;
        let mut answer = respond.send_response(Response::new(()), false).unwrap();
        answer.send_data(Bytes::from_static(b"half"), false).unwrap();
        // The app's connection writes what it has before it hears of the reset.
        tokio::task::yield_now().await;
        answer.send_reset(Reason::INTERNAL_ERROR);
        let mut body = soon(response).await.unwrap().into_body();
        assert_eq!(soon(body.data()).await.unwrap().unwrap()[..], b"half"[..]);
        assert_eq!(soon(body.data()).await.unwrap().unwrap_err().reason(), Some(Reason::INTERNAL_ERROR));
    }
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_question_is_whole_and_stops_the_question() {
    let mut rig = Rig::new().await;
    let (response, mut up) = rig.ask(post("/"), false).await;
    up.send_data(Bytes::from_static(b"a"), false).unwrap();
    let (request, mut respond) = rig.arrival().await;
    let mut answer = respond.send_response(Response::new(()), false).unwrap();
    pour(&mut answer, vec![1; 200_000].into(), true).await;
    // The app has no use for the rest: RST_STREAM with NO_ERROR behind its answer.
    drop((request, respond, answer));
    let (_, body, _) = whole(response).await;
    assert_eq!(body.len(), 200_000);
    let reset = soon(std::future::poll_fn(|cx| up.poll_reset(cx))).await.unwrap();
    assert_eq!(reset, Reason::NO_ERROR);
    rig.works("/after").await;
}

#[tokio::test]
async fn a_request_without_authority_arrives_without_one() {
    let mut rig = Rig::new().await;
    let request = Request::get("/path?q").version(Version::HTTP_11).header("host", "web");
    let (response, _) = rig.ask(request, true).await;
    let (request, mut respond) = rig.arrival().await;
    assert_eq!(request.uri(), "/path?q");
    assert_eq!(request.uri().authority(), None);
    assert_eq!(request.headers()["host"], "web");
    respond.send_response(Response::new(()), true).unwrap();
    whole(response).await;
}

#[tokio::test]
async fn a_connect_is_a_tunnel() {
    let mut rig = Rig::new().await;
    let (response, mut up) = rig.ask(Request::connect("db:5432"), false).await;
    let (request, mut respond) = rig.arrival().await;
    assert_eq!((request.method(), request.uri().to_string()), (&Method::CONNECT, "db:5432".to_owned()));
    let mut down = respond.send_response(Response::new(()), false).unwrap();
    down.send_data(Bytes::from_static(b"hello"), true).unwrap();
    up.send_data(Bytes::from_static(b"bye"), true).unwrap();
    assert_eq!(rest(request.into_body()).await.unwrap().0, b"bye");
    assert_eq!(whole(response).await.1, b"hello");
}

#[tokio::test]
async fn extended_connect_is_taken_where_the_app_takes_it() {
    let websocket = || {
        let protocol = Protocol::from_static("websocket");
        Request::builder().method(Method::CONNECT).uri("http://web/chat").extension(protocol)
    };
    let mut app = h2::server::Builder::new();
    app.enable_connect_protocol();
    let mut rig = Rig::with(h2::client::Builder::new(), app).await;
    rig.works("/").await;
    assert!(rig.requests.is_extended_connect_protocol_enabled());
    let (response, mut up) = rig.ask(websocket(), false).await;
    let (request, mut respond) = rig.arrival().await;
    assert_eq!(request.extensions().get::<Protocol>().map(Protocol::as_str), Some("websocket"));
    assert_eq!(request.uri(), "http://web/chat");
    respond.send_response(Response::new(()), false).unwrap().send_data(Bytes::from_static(b"hi"), true).unwrap();
    up.send_data(Bytes::from_static(b"hi"), true).unwrap();
    assert_eq!(whole(response).await.1, b"hi");

    let mut rig = Rig::new().await;
    rig.works("/").await;
    assert!(!rig.requests.is_extended_connect_protocol_enabled());
}

#[tokio::test]
async fn a_body_of_another_length_than_announced_is_no_body() {
    let mut rig = Rig::new().await;
    let (response, mut up) = rig.ask(post("/").header("content-length", "10"), false).await;
    let (request, _) = rig.arrival().await;
    up.send_data(Bytes::from_static(b"short"), true).unwrap();
    assert_eq!(soon(response).await.unwrap_err().reason(), Some(Reason::PROTOCOL_ERROR));
    let error = rest(request.into_body()).await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::PROTOCOL_ERROR));

    let (response, _) = rig.ask(get("/"), true).await;
    let (_, mut respond) = rig.arrival().await;
    let head = Response::builder().header("content-length", "3").body(()).unwrap();
    respond.send_response(head, false).unwrap().send_data(Bytes::from_static(b"longer"), true).unwrap();
    let body = soon(response).await.unwrap().into_body();
    assert_eq!(rest(body).await.unwrap_err().reason(), Some(Reason::PROTOCOL_ERROR));
    rig.works("/after").await;
}

#[tokio::test]
async fn a_request_that_is_ended_before_anybody_saw_it_reaches_nobody() {
    let mut rig = Rig::new().await;
    rig.works("/before").await;
    let (response, mut up) = rig.ask(get("/gone"), true).await;
    up.send_reset(Reason::CANCEL);
    drop((response, up));
    rig.works("/after").await;
}

#[tokio::test]
async fn a_status_of_every_kind_is_passed() {
    let mut rig = Rig::new().await;
    for status in [200, 204, 304, 404, 431, 500, 599] {
        let (response, _) = rig.ask(get("/"), true).await;
        let (_, mut respond) = rig.arrival().await;
        let status = StatusCode::from_u16(status).unwrap();
        respond.send_response(Response::builder().status(status).body(()).unwrap(), true).unwrap();
        assert_eq!(whole(response).await.0.status, status);
    }
}
