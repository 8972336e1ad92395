//! The heads that are measured: of the kinds that clients, proxies and browsers send to an app, from 41 bytes to 5 KiB.
//!
//! Owns: their bytes and names. Must not: favour a parser: they are written as the named programs write them.
//! Called by: everything in `parser`.

/// One request's head.
pub struct Head {
    /// What sends it.
    pub name: &'static str,
    /// The bytes, as they arrive.
    pub bytes: Vec<u8>,
}

type Fields<'a> = &'a [(&'a str, &'a str)];

fn head(name: &'static str, line: &str, fields: Fields<'_>) -> Head {
    let mut bytes = format!("{line} HTTP/1.1\r\n").into_bytes();
    for (field, value) in fields {
        bytes.extend_from_slice(format!("{field}: {value}\r\n").as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    Head { name, bytes }
}

const CHROME: &str =
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36";
const FIREFOX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0";
const NAVIGATION: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8,\
                          application/signed-exchange;v=b3;q=0.7";

/// Every head, the shortest first.
#[must_use]
pub fn corpus() -> Vec<Head> {
    let mut heads = vec![
        load_generator(),
        curl(),
        matched(),
        kube_probe(),
        httparse_short(),
        go_client(),
        upload(),
        json_post(),
        websocket(),
        device(),
        mesh(),
        httparse_long(),
        firefox(),
        chrome(),
        gateway(),
        long_query(),
        bearer(),
        cookies("browser, 1 KiB of cookies", 1024),
        cookies("browser, 4 KiB of cookies", 4096),
    ];
    heads.sort_by_key(|head| head.bytes.len());
    heads
}

fn load_generator() -> Head {
    head("wrk", "GET /", &[("Host", "10.42.0.17:8080")])
}

fn curl() -> Head {
    head("curl", "GET /", &[("Host", "example.com"), ("User-Agent", "curl/8.14.1"), ("Accept", "*/*")])
}

fn matched() -> Head {
    head(
        "curl with the filter's header",
        "GET /cart",
        &[("Host", "shop.example.com"), ("User-Agent", "curl/8.14.1"), ("Accept", "*/*"), ("x-user", "alice")],
    )
}

fn kube_probe() -> Head {
    head(
        "kubelet's probe",
        "GET /healthz",
        &[("Host", "10.42.0.17:8080"), ("User-Agent", "kube-probe/1.33"), ("Accept", "*/*"), ("Connection", "close")],
    )
}

/// The short request of httparse's own benchmark.
fn httparse_short() -> Head {
    let bytes = b"GET / HTTP/1.0\r\nHost: example.com\r\nCookie: session=60; user_id=1\r\n\r\n".to_vec();
    Head { name: "httparse's short benchmark", bytes }
}

/// The long request of httparse's own benchmark (picohttpparser's, too).
fn httparse_long() -> Head {
    let cookie = "wp_ozh_wsa_visits=2; wp_ozh_wsa_visit_lasttime=xxxxxxxxxx; \
                  __utma=xxxxxxxxx.xxxxxxxxxx.xxxxxxxxxx.xxxxxxxxxx.xxxxxxxxxx.x; \
                  __utmz=xxxxxxxxx.xxxxxxxxxx.x.x.utmccn=(referral)|utmcsr=reader.livedoor.com|utmcct=/reader/|\
                  utmcmd=referral|padding=under256";
    head(
        "httparse's long benchmark",
        "GET /wp-content/uploads/2010/03/hello-kitty-darth-vader-pink.jpg",
        &[
            ("Host", "www.kittyhell.com"),
            (
                "User-Agent",
                "Mozilla/5.0 (Macintosh; U; Intel Mac OS X 10.6; ja-JP-mac; rv:1.9.2.3) Gecko/20100401 Firefox/3.6.3 \
                 Pathtraq/0.9",
            ),
            ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
            ("Accept-Language", "ja,en-us;q=0.7,en;q=0.3"),
            ("Accept-Encoding", "gzip,deflate"),
            ("Accept-Charset", "Shift_JIS,utf-8;q=0.7,*;q=0.7"),
            ("Keep-Alive", "115"),
            ("Connection", "keep-alive"),
            ("Cookie", cookie),
        ],
    )
}

fn go_client() -> Head {
    head(
        "Go service",
        "GET /api/v1/orders?customer=48213&limit=50",
        &[
            ("Host", "orders.shop.svc.cluster.local:8080"),
            ("User-Agent", "Go-http-client/1.1"),
            ("Traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
            ("Accept-Encoding", "gzip"),
        ],
    )
}

fn upload() -> Head {
    head(
        "curl, chunked upload",
        "PUT /files/report.csv",
        &[
            ("Host", "files.example.com"),
            ("User-Agent", "curl/8.14.1"),
            ("Accept", "*/*"),
            ("Transfer-Encoding", "chunked"),
            ("Content-Type", "text/csv"),
            ("Expect", "100-continue"),
        ],
    )
}

fn json_post() -> Head {
    let body = br#"{"sku":"4711-XL","quantity":2}"#;
    head(
        "axios, JSON",
        "POST /api/cart/items",
        &[
            ("Accept", "application/json, text/plain, */*"),
            ("Content-Type", "application/json"),
            ("User-Agent", "axios/1.12.2"),
            ("Content-Length", &body.len().to_string()),
            ("Accept-Encoding", "gzip, compress, deflate, br"),
            ("Host", "cart.shop.svc.cluster.local:8080"),
            ("Connection", "keep-alive"),
        ],
    )
}

fn websocket() -> Head {
    head(
        "browser, WebSocket",
        "GET /live?room=7",
        &[
            ("Host", "shop.example.com"),
            ("Connection", "Upgrade"),
            ("Pragma", "no-cache"),
            ("Cache-Control", "no-cache"),
            ("User-Agent", CHROME),
            ("Upgrade", "websocket"),
            ("Origin", "https://shop.example.com"),
            ("Sec-WebSocket-Version", "13"),
            ("Accept-Encoding", "gzip, deflate, br, zstd"),
            ("Accept-Language", "en-GB,en;q=0.9"),
            ("Sec-WebSocket-Key", "x3JJHMbDL1EzLkh9GBhXDw=="),
            ("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"),
        ],
    )
}

/// Many fields with next to nothing in them: all lines, no runs.
fn device() -> Head {
    head(
        "device, short fields",
        "POST /t",
        &[
            ("H", "d1"),
            ("Id", "8f3a"),
            ("Fw", "2.1"),
            ("Up", "93211"),
            ("Bat", "81"),
            ("Rssi", "-67"),
            ("Lat", "52.52"),
            ("Lon", "13.40"),
            ("T", "21.4"),
            ("P", "1013"),
            ("Rh", "44"),
            ("Seq", "199"),
            ("Ack", "198"),
            ("Err", "0"),
            ("Md", "auto"),
            ("Te", "trailers"),
            ("Host", "i"),
            ("Content-Length", "0"),
        ],
    )
}

/// What a sidecar's hop adds: tracing in two dialects.
fn mesh() -> Head {
    head(
        "mesh hop, B3 tracing",
        "GET /inventory/4711",
        &[
            ("host", "inventory:9080"),
            ("user-agent", "python-requests/2.32.5"),
            ("accept-encoding", "gzip, deflate"),
            ("accept", "*/*"),
            ("x-forwarded-proto", "http"),
            ("x-request-id", "a1f6ea4e-2f0b-9c55-8b3e-0f6a6c1d2e3f"),
            ("x-b3-traceid", "463ac35c9f6413ad48485a3953bb6124"),
            ("x-b3-spanid", "a2fb4a1d1a96d312"),
            ("x-b3-parentspanid", "0020000000000001"),
            ("x-b3-sampled", "1"),
            ("x-envoy-attempt-count", "1"),
            ("x-user", "bob"),
        ],
    )
}

fn gateway() -> Head {
    head(
        "ingress and gRPC gateway",
        "POST /shop.v1.Cart/AddItem",
        &[
            ("Host", "api.example.com"),
            ("X-Request-ID", "5f2a9c4be0e94b53a1c1d1d0b6f7a8c9"),
            ("X-Real-IP", "203.0.113.77"),
            ("X-Forwarded-For", "203.0.113.77, 10.0.3.12"),
            ("X-Forwarded-Host", "api.example.com"),
            ("X-Forwarded-Port", "443"),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Scheme", "https"),
            ("X-Scheme", "https"),
            ("Content-Length", "0"),
            ("grpcgateway-accept", "application/json"),
            ("grpcgateway-content-type", "application/json"),
            ("grpcgateway-user-agent", "ShopApp/7.4 (iPhone; iOS 18.6; Scale/3.00)"),
            ("grpcgateway-authorization", "Bearer 2YotnFZFEjr1zCsicMWpAA"),
            ("x-envoy-expected-rq-timeout-ms", "15000"),
            ("x-envoy-external-address", "203.0.113.77"),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            ("tracestate", "vendor=00f067aa0ba902b7,rojo=t61rcWkgMzE"),
            ("baggage", "userId=48213,serverNode=DF28,isProduction=true"),
            ("content-type", "application/json"),
            ("accept-encoding", "gzip"),
        ],
    )
}

fn chrome_fields<'a>() -> Vec<(&'a str, &'a str)> {
    vec![
        ("Host", "shop.example.com"),
        ("Connection", "keep-alive"),
        ("Cache-Control", "max-age=0"),
        ("sec-ch-ua", r#""Chromium";v="140", "Not=A?Brand";v="24", "Google Chrome";v="140""#),
        ("sec-ch-ua-mobile", "?0"),
        ("sec-ch-ua-platform", r#""Linux""#),
        ("Upgrade-Insecure-Requests", "1"),
        ("User-Agent", CHROME),
        ("Accept", NAVIGATION),
        ("Sec-Fetch-Site", "same-origin"),
        ("Sec-Fetch-Mode", "navigate"),
        ("Sec-Fetch-User", "?1"),
        ("Sec-Fetch-Dest", "document"),
        ("Referer", "https://shop.example.com/catalogue/shoes?sort=price&page=2"),
        ("Accept-Encoding", "gzip, deflate, br, zstd"),
        ("Accept-Language", "en-GB,en;q=0.9,de;q=0.8"),
    ]
}

fn chrome() -> Head {
    head("Chrome, navigation", "GET /catalogue/shoes/4711?ref=list", &chrome_fields())
}

fn firefox() -> Head {
    head(
        "Firefox, navigation",
        "GET /catalogue/shoes/4711",
        &[
            ("Host", "shop.example.com"),
            ("User-Agent", FIREFOX),
            ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
            ("Accept-Language", "en-GB,en;q=0.5"),
            ("Accept-Encoding", "gzip, deflate, br, zstd"),
            ("Connection", "keep-alive"),
            ("Cookie", "session=7f3c9a51b2d84e06; theme=dark; consent=1"),
            ("Upgrade-Insecure-Requests", "1"),
            ("Sec-Fetch-Dest", "document"),
            ("Sec-Fetch-Mode", "navigate"),
            ("Sec-Fetch-Site", "none"),
            ("Sec-Fetch-User", "?1"),
            ("Priority", "u=0, i"),
        ],
    )
}

fn long_query() -> Head {
    let query: String = (0..40).map(|n| format!("&f{n}=value%20{:05}%2Cx", n * 7919 % 100_000)).collect();
    head(
        "search, 1 KiB of query",
        &format!("GET /search?q=shoes{query}"),
        &[
            ("Host", "shop.example.com"),
            ("User-Agent", "okhttp/5.1.0"),
            ("Accept", "application/json"),
            ("Accept-Encoding", "gzip"),
            ("Connection", "Keep-Alive"),
        ],
    )
}

fn bearer() -> Head {
    let token: String = letters(1000);
    head(
        "browser, fetch with a token",
        "GET /api/me",
        &[
            ("Host", "api.example.com"),
            ("Connection", "keep-alive"),
            ("sec-ch-ua-platform", r#""Linux""#),
            ("Authorization", &format!("Bearer {token}")),
            ("User-Agent", CHROME),
            ("Accept", "application/json"),
            ("Origin", "https://shop.example.com"),
            ("Sec-Fetch-Site", "same-site"),
            ("Sec-Fetch-Mode", "cors"),
            ("Sec-Fetch-Dest", "empty"),
            ("Referer", "https://shop.example.com/"),
            ("Accept-Encoding", "gzip, deflate, br, zstd"),
            ("Accept-Language", "en-GB,en;q=0.9"),
        ],
    )
}

/// A navigation with a Cookie field of `size` bytes.
fn cookies(name: &'static str, size: usize) -> Head {
    let mut jar = String::new();
    for n in 0.. {
        let crumb = format!("_ck{n}={}", letters(20 + n * 13 % 90));
        if jar.len() + crumb.len() + 2 > size {
            break;
        }
        jar = if jar.is_empty() { crumb } else { format!("{jar}; {crumb}") };
    }
    jar.push_str(&letters(size - jar.len()));
    let mut fields = chrome_fields();
    fields.push(("Cookie", &jar));
    head(name, "GET /catalogue/shoes/4711?ref=list", &fields)
}

/// Bytes as tokens have them, the same in every run.
fn letters(len: usize) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut state = 0x9e37_79b9_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(ALPHABET[(state >> 26) as usize])
    };
    (0..len).map(|_| next()).collect()
}
