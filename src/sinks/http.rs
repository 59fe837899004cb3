//! `http` sink: POSTs batches of records to a URL, as NDJSON or a JSON array, several requests at a time over kept
//! connections. What an answer means stands in `http_reply.rs`, bodies in `http_body.rs`, trust in `tls.rs`, tokens in
//! `http_credentials.rs`.
//!
//! Each request carries an `Idempotency-Key`, the same for all its tries, so that a destination that knows such keys
//! takes it once even where the answer to an earlier try was lost. Redirects are never followed, and proxies from the
//! environment are not used. Only scheme, host and port of the URL are ever shown; secrets are cut out of answers.
//!
//! Limits: connecting 5 s; a whole try `timeout` (60 s); 64 KiB of an answer's body are read.

use std::error::Error;
use std::future::ready;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::timeout;

use super::http_body::{self, Compression, Format};
use super::http_credentials::{Credential, Credentials};
use super::request::{Part, Request};
use super::{Limits, Reach, Reply, SendError, Sending, Sink, http_reply, http_settings, tls};
use crate::batch::Added;
use crate::codec::ndjson::Encoder;
use crate::record::Timestamp;
use crate::settings::Section;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of an answer's body that are read.
const ANSWER_MAX: usize = 64 << 10;
/// How long to wait for the rest of an answer whose status is known.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// The settings of one `http` sink.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to.
    pub url: Uri,
    /// How records are put together.
    pub format: Format,
    /// How bodies are compressed.
    pub compression: Compression,
    /// Headers of every request: the configured ones and the credentials.
    pub headers: HeaderMap,
    /// Those of the headers that hold a secret.
    pub credentials: Vec<Credential>,
    /// PEM files.
    pub tls: tls::Files,
    /// For one whole try.
    pub timeout: Duration,
    /// Requests at once, batch size and wait.
    pub limits: Limits,
    /// Values added to each record.
    pub added: Added,
}

/// The sink.
pub struct Http {
    settings: Arc<Settings>,
    encoder: Encoder,
    headers: HeaderMap,
    credentials: Credentials,
    client: Option<Client<HttpsConnector<HttpConnector>, Full<Bytes>>>,
    place: Arc<str>,
}

/// Reads the section of an `http` sink.
pub fn read(section: &Section<'_, '_>, _name: &str) -> Box<dyn Sink> {
    Box::new(Http::new(http_settings::read(section)))
}

impl Http {
    /// A sink with these settings.
    pub fn new(settings: Settings) -> Http {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(settings.format.content_type()));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("longshore/", env!("CARGO_PKG_VERSION"))));
        if let Some(name) = settings.compression.name() {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(name));
        }
        headers.extend(settings.headers.clone());
        let place = format!(
            "{}://{}",
            settings.url.scheme_str().unwrap_or("http"),
            settings.url.authority().map_or("", |authority| authority.as_str())
        );
        let encoder = Encoder::new(settings.added);
        let credentials = Credentials::new(settings.credentials.clone());
        Http { settings: Arc::new(settings), encoder, headers, credentials, client: None, place: Arc::from(place) }
    }
}

impl Sink for Http {
    fn limits(&self) -> Limits {
        self.settings.limits
    }

    fn start(&mut self) -> io::Result<()> {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        connector.set_keepalive(Some(Duration::from_secs(60)));
        connector.enforce_http(false);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls::config(&self.settings.tls, self.settings.url.scheme_str() == Some("https"))?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(self.settings.limits.at_once)
            .build(connector);
        self.client = Some(client);
        Ok(())
    }

    fn prepare(&mut self, request: &mut Request, bytes_max: usize) -> Vec<Part> {
        let settings = &self.settings;
        http_body::prepare(request, settings.format, settings.compression, &mut self.encoder, bytes_max)
    }

    fn send(&mut self, request: &mut Request) -> Sending {
        let (Some(client), Some(body)) = (self.client.clone(), request.body().cloned()) else {
            // Only before `start` and `prepare`, which delivery calls first.
            let cause = format!("{}: not started", self.place);
            return Box::pin(ready(Err(SendError::Retry { cause, not_before: None })));
        };
        self.credentials.refresh(&mut self.headers, &self.place);
        let hidden = self.credentials.hidden();
        let mut headers = self.headers.clone();
        if let Ok(key) = HeaderValue::try_from(format!("{:032x}", request.key)) {
            headers.insert(HeaderName::from_static("idempotency-key"), key);
        }
        let bytes = body.len() as u64;
        let mut post = hyper::Request::new(Full::new(body));
        *post.method_mut() = Method::POST;
        *post.uri_mut() = self.settings.url.clone();
        *post.headers_mut() = headers;
        let (settings, place) = (Arc::clone(&self.settings), Arc::clone(&self.place));
        Box::pin(async move {
            let retry = |cause| Err(SendError::Retry { cause, not_before: None });
            let answer = match timeout(settings.timeout, client.request(post)).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(error)) => return retry(format!("{place}: {}", chain(&error))),
                Err(_) => return retry(format!("{place} did not answer within {:?}", settings.timeout)),
            };
            let (head, body) = answer.into_parts();
            // Read to its end, so that the connection can be used again. The status decides, whatever comes of it.
            let body = timeout(ANSWER_WAIT, beginning(body)).await.unwrap_or_default();
            if head.status.is_success() {
                return Ok(Reply { bytes, ..Reply::default() });
            }
            let body = cut_secrets(&hidden, &body);
            Err(http_reply::classify(&place, head.status, &head.headers, body.as_bytes(), Timestamp::now()))
        })
    }
}

/// The first [`ANSWER_MAX`] bytes of a body, or what came of it.
async fn beginning(mut body: Incoming) -> Bytes {
    let mut read = BytesMut::new();
    while let Some(Ok(frame)) = body.frame().await {
        if let Some(data) = frame.data_ref() {
            read.extend_from_slice(&data[..data.len().min(ANSWER_MAX - read.len())]);
        }
        if read.len() >= ANSWER_MAX {
            break;
        }
    }
    read.freeze()
}

fn cut_secrets(hidden: &[String], body: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(body).into_owned();
    for secret in hidden {
        if text.contains(secret) {
            text = text.replace(secret, "***");
        }
    }
    text
}

/// An error with its reasons: hyper's own text says little without them.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let reason = source.to_string();
        if !text.ends_with(&reason) {
            text.push_str(": ");
            text.push_str(&reason);
        }
        next = source.source();
    }
    text
}

/// PEM paths, as read from the configuration.
pub(super) fn files(ca: Option<String>, cert: Option<String>, key: Option<String>) -> tls::Files {
    let path = |text: Option<String>| text.map(PathBuf::from);
    tls::Files { ca: path(ca), cert: path(cert), key: path(key) }
}

/// The longest-lived limits of the sink, before the configuration changes them.
pub(super) const DEFAULT_LIMITS: Limits =
    Limits { bytes: 1 << 20, wait: Duration::from_secs(1), at_once: 4, reach: Reach::Network };

#[cfg(test)]
mod tests;
