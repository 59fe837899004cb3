//! What TLS costs the `http` sink: a body sent by it over `https` and over plain `http`, to a server in other threads, beside
//! the library alone: `library_socket` writes the same bytes to the same server through `rustls::Stream`, `library_memory`
//! encrypts them and sends nothing. Measured is CPU time of the sender's thread.
//!
//! Figures (2026-11-29, AMD EPYC, one core of two, quiet, three runs), microseconds a body. 1 MiB: `https` 442 to 478, `library_socket`
//! 443 to 821, `library_memory` 180 to 185, `http` 214 to 216. 64 KiB: 72 to 74, 55 to 68, 11, 47 to 56. So a body as the sink makes
//! them by default (1 MiB) takes 0.8 times what the library takes over its socket (medians), one of 64 KiB 1.25 times, and that is
//! the sink's tasks and wake-ups, which plain `http` has as well. By `perf` each byte is copied once and encrypted once, as in
//! `library_memory`; what `https` less `http` is more than that is the kernel's, to which rustls gives 64 KiB at a time.

use std::hint::black_box;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use longshore::batch::Batch;
use longshore::budget::Budget;
use longshore::receipt::Receipts;
use longshore::settings::{Doc, Section};
use longshore::sinks::request::{Part, Request};
use longshore::sinks::{SINKS, Sink};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use tokio::runtime::Runtime;

mod cpu_time;

use cpu_time::CpuTime;

const ANSWER: [u8; 27] = *b"HTTP/1.1 204 No Content\r\n\r\n";
const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tls");

fn certificate(name: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(format!("{FIXTURES}/{name}")).expect("a certificate")
}

fn server_config() -> Arc<ServerConfig> {
    let key = PrivateKeyDer::from_pem_file(format!("{FIXTURES}/server.key")).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate("server.pem")], key);
    Arc::new(config.expect("a configuration"))
}

fn client_config() -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate("ca.pem")).expect("a root");
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

/// Takes every body. Its port.
fn server(tls: Option<Arc<ServerConfig>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let tls = tls.clone();
            std::thread::spawn(move || match tls {
                Some(config) => {
                    let session = ServerConnection::new(config).expect("a session");
                    serve(StreamOwned::new(session, stream))
                }
                None => serve(stream),
            });
        }
    });
    port
}

/// Ends with the connection.
fn serve(stream: impl Read + Write) -> io::Result<()> {
    let mut stream = BufReader::with_capacity(64 << 10, stream);
    loop {
        let (mut length, mut line) = (0, String::new());
        while line != "\r\n" {
            line.clear();
            if stream.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if let Some(text) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = text.trim().parse().expect("a length");
            }
        }
        io::copy(&mut stream.by_ref().take(length), &mut io::sink())?;
        stream.get_mut().write_all(&ANSWER)?;
        stream.get_mut().flush()?;
    }
}

fn sink(url: &str) -> Box<dyn Sink> {
    let mut text = format!("url = \"{url}\"\n");
    if url.starts_with("https") {
        text += &format!("ca = \"{FIXTURES}/ca.pem\"\n");
    }
    let table = toml::de::DeTable::parse(&text).expect("toml");
    let doc = Doc::new("bench.toml", &text, |_| None);
    let section = Section::new(&doc, table.get_ref(), "sinks.bench", 0..0);
    let kind = SINKS.iter().find(|kind| kind.name == "http").expect("there");
    let mut sink = (kind.read)(&section, "bench");
    section.finish();
    sink.start().expect("starts");
    sink
}

/// A request that has its body already.
fn request(body: &[u8]) -> Request {
    let batch = Batch::new(Budget::new(1 << 20).empty_permit(), 0, Arc::default());
    let part = Part { batch: Arc::new(batch), rows: vec![0], receipts: Receipts::default(), logged: false };
    let mut request = Request::new(vec![part], 1);
    request.keep_body(body.to_vec(), body.len());
    request
}

fn send(runtime: &Runtime, sink: &mut dyn Sink, request: &mut Request) {
    runtime.block_on(sink.send(request)).expect("taken");
}

/// The same by hand.
fn post(stream: &mut (impl Read + Write), body: &[u8]) {
    let head = format!("POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", body.len());
    stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(body))
        .and_then(|()| stream.flush())
        .expect("sent");
    let mut answer = [0; ANSWER.len()];
    stream.read_exact(&mut answer).expect("answered");
    assert_eq!(answer, ANSWER);
}

/// A client's side after the handshake.
fn session() -> ClientConnection {
    let name = ServerName::try_from("localhost").expect("a name");
    let mut client = ClientConnection::new(client_config(), name).expect("a session");
    let mut server = ServerConnection::new(server_config()).expect("a session");
    while client.is_handshaking() || server.is_handshaking() {
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).expect("in memory");
        server.read_tls(&mut &bytes[..]).expect("in memory");
        server.process_new_packets().expect("a handshake");
        bytes.clear();
        server.write_tls(&mut bytes).expect("in memory");
        client.read_tls(&mut &bytes[..]).expect("in memory");
        client.process_new_packets().expect("a handshake");
    }
    client
}

/// The library's own work: plain bytes into records.
fn encrypt(client: &mut ClientConnection, mut plain: &[u8], out: &mut Vec<u8>) {
    while !plain.is_empty() {
        let taken = client.writer().write(plain).expect("taken");
        plain = &plain[taken..];
        out.clear();
        while client.wants_write() {
            client.write_tls(out).expect("in memory");
        }
    }
}

fn tls(c: &mut Criterion<CpuTime>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let plain: Vec<u8> = (0..1 << 20).map(|n: usize| b"{\"level\":\"info\",\"n\":1}\n"[n % 23]).collect();
    for (name, size) in [("64k", 64 << 10), ("1m", 1 << 20)] {
        let body = &plain[..size];
        let mut group = c.benchmark_group(format!("tls_{name}"));
        group.throughput(Throughput::Bytes(size as u64)).sample_size(20);
        for (scheme, config) in [("http", None), ("https", Some(server_config()))] {
            let mut sink = sink(&format!("{scheme}://localhost:{}/", server(config)));
            let mut request = request(body);
            send(&runtime, &mut *sink, &mut request);
            group.bench_function(scheme, |b| b.iter(|| send(&runtime, &mut *sink, &mut request)));
        }
        let name = ServerName::try_from("localhost").expect("a name");
        let client = ClientConnection::new(client_config(), name).expect("a session");
        let socket = TcpStream::connect(("127.0.0.1", server(Some(server_config())))).expect("connected");
        socket.set_nodelay(true).expect("a TCP socket");
        let mut stream = StreamOwned::new(client, socket);
        group.bench_function("library_socket", |b| b.iter(|| post(&mut stream, black_box(body))));
        let (mut client, mut out) = (session(), Vec::new());
        group.bench_function("library_memory", |b| b.iter(|| encrypt(&mut client, black_box(body), &mut out)));
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime);
    targets = tls
}
criterion_main!(benches);
