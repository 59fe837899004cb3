//! Tests of the `http` sink, its settings and its TLS, against a real server on loopback.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::budget::Budget;
use crate::settings::Doc;
use crate::sinks::request::tests::request;
use crate::sinks::server_tests::{Server, answer};

/// Reads a section; returns the settings and the findings as they are printed.
fn settings(text: &str) -> (Settings, Vec<String>) {
    let table = toml::de::DeTable::parse(text).expect("toml");
    let doc = Doc::new("t.toml", text, |_| None);
    let secrets = tempfile::tempdir().expect("a folder");
    std::fs::write(secrets.path().join("api_key"), "k3y\n").expect("written");
    doc.set_secrets(secrets.path());
    let section = Section::new(&doc, table.get_ref(), "sinks.x", 0..0);
    let settings = http_settings::read(&section);
    section.finish();
    (settings, doc.findings().iter().map(|finding| doc.render(finding)).collect())
}

fn good(text: &str) -> Settings {
    let (settings, findings) = settings(text);
    assert!(findings.is_empty(), "{findings:?}");
    settings
}

/// Sends records once.
fn send(settings: Settings, texts: &[&str]) -> Result<Reply, SendError> {
    let mut sink = Http::new(settings);
    sink.start().expect("started");
    let mut request = request(&Budget::new(1 << 20), texts);
    sink.prepare(&mut request, 1 << 20);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let outcome = runtime.block_on(async { sink.send(&mut request).await });
    runtime.shutdown_background();
    outcome
}

fn url(server: &Server) -> String {
    format!("url = \"http://{}/ingest?source=x\"\nadd = []\n", server.address)
}

fn cause(outcome: Result<Reply, SendError>) -> String {
    match outcome {
        Err(
            SendError::Retry { cause, .. }
            | SendError::Pause { cause }
            | SendError::TooLarge { cause }
            | SendError::Reject { cause },
        ) => cause,
        other => panic!("{other:?}"),
    }
}

#[test]
fn records_arrive_with_login_headers_and_a_key() {
    let server = Server::new(|_, _| answer("204 No Content", "", ""));
    let text = url(&server) + "token = \"s3cret\"\nheaders = { X-Org = \"a\", Content-Type = \"text/x\" }\n";
    let reply = send(good(&text), &["1", "2"]).expect("taken");
    let seen = &server.seen()[0];
    assert_eq!(seen.line, "POST /ingest?source=x HTTP/1.1\r\n");
    assert_eq!(seen.text(), "{\"n\":\"1\"}\n{\"n\":\"2\"}\n");
    assert_eq!(reply.bytes, seen.body.len() as u64);
    assert_eq!(seen.header("authorization"), Some("Bearer s3cret"));
    assert_eq!(seen.header("x-org"), Some("a"));
    assert_eq!(seen.header("content-type"), Some("text/x"));
    assert_eq!(seen.header("idempotency-key"), Some("00000000000000000000000000000001"));
    assert!(seen.header("user-agent").is_some_and(|agent| agent.starts_with("longshore/")));
}

#[test]
fn bodies_are_compressed_and_logins_encoded() {
    let server = Server::new(|_, _| answer("200 OK", "", "fine"));
    let text =
        url(&server) + "user = \"u\"\npassword = \"p\"\ncompression = \"gzip\"\nlevel = 9\nformat = \"json_array\"\n";
    send(good(&text), &["1", "2"]).expect("taken");
    send(good(&(url(&server) + "compression = \"zstd\"\n")), &["1"]).expect("taken");
    let seen = server.seen();
    let mut plain = String::new();
    flate2::read::GzDecoder::new(&seen[0].body[..]).read_to_string(&mut plain).expect("gzip");
    assert_eq!(plain, "[{\"n\":\"1\"},{\"n\":\"2\"}]");
    assert_eq!(seen[0].header("content-encoding"), Some("gzip"));
    assert_eq!(seen[0].header("content-type"), Some("application/json"));
    assert_eq!(seen[0].header("authorization"), Some("Basic dTpw"));
    assert_eq!(zstd::stream::decode_all(&seen[1].body[..]).expect("zstd"), b"{\"n\":\"1\"}\n");
    assert_eq!(seen[1].header("content-encoding"), Some("zstd"));
}

#[test]
fn a_real_answer_of_each_class_means_what_it_should() {
    let class = |status: &'static str, headers: &'static str| {
        let server = Server::new(move |_, _| answer(status, headers, "{\"why\": \"so\"}"));
        (send(good(&url(&server)), &["1"]), server.seen().len())
    };
    let (outcome, _) = class("503 Service Unavailable", "retry-after: 3\r\n");
    let Err(SendError::Retry { cause, not_before }) = outcome else { panic!("{outcome:?}") };
    assert_eq!(not_before, Some(Duration::from_secs(3)));
    assert!(cause.ends_with("answered 503 Service Unavailable: {\"why\": \"so\"}"), "{cause}");
    assert!(matches!(class("413 Too Large", "").0, Err(SendError::TooLarge { .. })));
    assert!(matches!(class("422 No", "").0, Err(SendError::Reject { .. })));
    assert!(matches!(class("401 No", "").0, Err(SendError::Pause { .. })));
    let (outcome, requests) = class("307 Elsewhere", "location: http://127.0.0.1:1/\r\n");
    assert!(matches!(&outcome, Err(SendError::Pause { cause }) if cause.contains("not followed")), "{outcome:?}");
    assert_eq!(requests, 1);
    assert!(matches!(class("202 Accepted", "").0, Ok(Reply { .. })));
}

#[test]
fn the_status_decides_for_all_records_whatever_the_body_says_or_lacks() {
    let items = r#"{"errors":true,"items":[{"create":{"status":429}},{"create":{"status":400}}]}"#;
    let taken = |status, body: &'static str| {
        let server = Server::new(move |_, _| answer(status, "", body));
        let reply = send(good(&url(&server)), &["1", "2"]).expect("taken");
        (reply.marks.len(), server.seen().len())
    };
    assert_eq!(taken("200 OK", items), (0, 1));
    assert_eq!(taken("207 Multi-Status", items), (0, 1));
    // Cut in the middle of the answer's body: that it was taken was said before. In the middle of its head: nothing was said.
    let cut = |answer: &'static str| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("url = \"http://{}\"", listener.local_addr().expect("an address"));
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            assert!(stream.read(&mut [0; 16 << 10]).expect("readable") > 0, "a request");
            stream.write_all(answer.as_bytes()).expect("written");
            stream.shutdown(std::net::Shutdown::Write).expect("it is open");
            // Until the other side closes: bytes that nobody reads would reset the connection.
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let outcome = send(good(&url), &["1"]);
        server.join().expect("it does not panic");
        outcome
    };
    let outcome = cut("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{\"ok");
    assert!(outcome.is_ok(), "{outcome:?}");
    let outcome = cut("HTTP/1.1 200 OK\r\ncontent-le");
    assert!(matches!(&outcome, Err(SendError::Retry { .. })), "{outcome:?}");
}

#[test]
fn no_connection_a_reset_and_silence_are_tried_again() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let outcome = send(good(&format!("url = \"http://{closed}\"")), &["1"]);
    assert!(matches!(&outcome, Err(SendError::Retry { cause, .. }) if cause.contains("refused")), "{outcome:?}");
    let server = Server::new(|_, _| Vec::new());
    assert!(matches!(send(good(&url(&server)), &["1"]), Err(SendError::Retry { .. })));
    let server = Server::new(|_, _| {
        std::thread::sleep(Duration::from_secs(3));
        Vec::new()
    });
    let started = Instant::now();
    let outcome = send(good(&(url(&server) + "timeout = \"1s\"")), &["1"]);
    assert!(matches!(&outcome, Err(SendError::Retry { cause, .. }) if cause.contains("within 1s")), "{outcome:?}");
    assert!(started.elapsed() < Duration::from_secs(2));
    let server = Server::new(|_, _| b"\x16\x03\x01 this is no http\r\n\r\n".to_vec());
    assert!(matches!(send(good(&url(&server)), &["1"]), Err(SendError::Retry { .. })));
}

#[test]
fn an_endless_answer_is_cut_and_secrets_in_it_are_not_shown() {
    let long = format!("bad token s3cret {}", "x".repeat(200_000));
    let server = Server::new(move |_, _| answer("400 Bad Request", "", &long));
    let text = cause(send(good(&(url(&server) + "token = \"s3cret\"")), &["1"]));
    assert!(text.contains("bad token ***") && !text.contains("s3cret") && text.len() < 400, "{text}");
    assert!(!text.contains("ingest"), "only scheme, host and port are shown: {text}");
}

#[test]
fn connections_are_kept() {
    let server = Server::new(|_, _| answer("200 OK", "", "ok"));
    let mut sink = Http::new(good(&url(&server)));
    sink.start().expect("started");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for _ in 0..5 {
        let mut request = request(&Budget::new(1 << 20), &["1"]);
        sink.prepare(&mut request, 1 << 20);
        runtime.block_on(async { sink.send(&mut request).await }).expect("taken");
    }
    assert_eq!((server.seen().len(), server.connections()), (5, 1));
}

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tls");

fn tls_server() -> Server {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let read = |name: &str| CertificateDer::from_pem_file(format!("{FIXTURES}/{name}")).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(read("ca.pem")).expect("a root");
    let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let key = PrivateKeyDer::from_pem_file(format!("{FIXTURES}/server.key")).expect("a key");
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(clients.build().expect("a verifier"))
        .with_single_cert(vec![read("server.pem")], key)
        .expect("a configuration");
    let config = Arc::new(config);
    Server::over(
        |_, _| answer("200 OK", "", "ok"),
        move |stream| {
            let session = rustls::ServerConnection::new(Arc::clone(&config)).expect("a session");
            Box::new(rustls::StreamOwned::new(session, stream))
        },
    )
}

#[test]
fn both_sides_show_certificates_and_strangers_are_refused() {
    let server = tls_server();
    let url = format!("url = \"https://localhost:{}/\"\n", server.address.port());
    let pem = |name: &str| format!("{FIXTURES}/{name}");
    let ca = format!("ca = \"{}\"\n", pem("ca.pem"));
    let client = format!("cert = \"{}\"\nkey = \"{}\"\n", pem("client.pem"), pem("client.key"));
    send(good(&format!("{url}{ca}{client}")), &["1"]).expect("taken");
    // Without its CA the server is a stranger; without a certificate the client is.
    let text = cause(send(good(&format!("{url}{client}")), &["1"]));
    assert!(text.contains("certificate"), "{text}");
    assert!(matches!(send(good(&format!("{url}{ca}")), &["1"]), Err(SendError::Retry { .. })));
    assert_eq!(server.seen().len(), 1);
}

#[test]
fn bad_pem_files_end_the_start_with_their_name() {
    for (keys, expected) in [
        ("ca = \"/nonexistent.pem\"", "/nonexistent.pem: No such file"),
        ("ca = \"/etc/hostname\"", "/etc/hostname: no certificate"),
        ("cert = \"/etc/hostname\"\nkey = \"/etc/hostname\"", "/etc/hostname: no certificate"),
    ] {
        let mut sink = Http::new(good(&format!("url = \"https://x\"\n{keys}")));
        let error = sink.start().expect_err("bad").to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn defaults_and_limits_are_read() {
    let settings =
        good("url = \"https://x\"\nconcurrency = 2\nbatch = { size = \"64KiB\", wait = \"250ms\" }\nadd = \"tag\"\n");
    assert_eq!((settings.limits.bytes, settings.limits.at_once), (64 << 10, 2));
    assert_eq!(settings.limits.wait, Duration::from_millis(250));
    assert!(settings.added.tag && !settings.added.time);
    let settings = good("url = \"https://x\"");
    assert_eq!((settings.limits.bytes, settings.limits.at_once), (1 << 20, 4));
    assert_eq!((settings.compression, settings.timeout), (Compression::None, Duration::from_secs(60)));
    let hidden = good("url = \"https://x\"\ntoken = \"s3cret\"\nheaders = { X-Key = \"secret:api_key\" }\n");
    assert_eq!(hidden.headers["x-key"], "k3y");
    let shown = format!("{hidden:?}");
    assert!(!shown.contains("s3cret") && !shown.contains("k3y"), "{shown}");
}

#[test]
fn every_mistake_is_named_with_the_way_out() {
    for (text, expected) in [
        ("format = \"ndjson\"", "`url` is missing"),
        ("url = \"ftp://x\"", "must start with https://"),
        ("url = \"nonsense\"", "must start with https://"),
        ("url = \"https://u:pw@x\"", "set `user` and `password`"),
        ("url = \"https://x\"\nuser = \"u\"", "`password` is missing"),
        ("url = \"https://x\"\ntoken = \"t\"\nuser = \"u\"\npassword = \"p\"", "two logins"),
        ("url = \"https://x\"\nheaders = { X = \"a\\r\\nb\" }", "line break"),
        ("url = \"https://x\"\nheaders = { \"a b\" = \"c\" }", "no header name"),
        ("url = \"https://x\"\nheaders = { Content-Length = \"3\" }", "follows from the body"),
        ("url = \"https://x\"\ntoken = \"a\\nb\"", "line break"),
        ("url = \"https://x\"\ncert = \"a\"", "`key` is missing"),
        ("url = \"http://x\"\nca = \"a\"", "write https://"),
        ("url = \"https://x\"\nlevel = 3", "no compression"),
        ("url = \"https://x\"\ncompression = \"gzip\"\nlevel = 12", "not within 1 to 9"),
        ("url = \"https://x\"\ncompresion = \"gzip\"", "did you mean `compression`?"),
        ("url = \"https://x\"\nbatch = { size = \"1GiB\" }", "not within"),
        ("url = \"https://x\"\nadd = [\"tga\"]", "did you mean \"tag\"?"),
        ("url = \"http://logs.example.com\"\ntoken = \"t\"", "in the clear"),
    ] {
        let (_, findings) = settings(text);
        assert_eq!(findings.len(), 1, "{text}: {findings:?}");
        assert!(findings[0].contains(expected), "{text}: {findings:?}");
        assert!(!findings[0].contains("pw"), "{findings:?}");
    }
}
