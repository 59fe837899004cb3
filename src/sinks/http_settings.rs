//! Reading the section of an `http` sink.

use std::time::Duration;

use hyper::Uri;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};

use super::http::{DEFAULT_LIMITS, Settings, files};
use super::http_body::{Compression, Format};
use super::http_credentials::{Credential, Form};
use super::{Limits, read_added};
use crate::settings::Section;

/// Headers that the sink sets itself, with the key that decides them.
const OWN: [(&str, &str); 8] = [
    ("content-length", "it follows from the body"),
    ("transfer-encoding", "it follows from the body"),
    ("content-encoding", "set `compression`"),
    ("connection", "connections are kept"),
    ("host", "it follows from `url`"),
    ("idempotency-key", "each request has its own"),
    ("expect", "it is not supported"),
    ("upgrade", "it is not supported"),
];

/// Reads all keys but `type` and `match`. Reports mistakes, and returns something even then.
pub fn read(section: &Section<'_, '_>) -> Settings {
    let url = section.required_text("url", "\"https://logs.example.com/ingest\"");
    let url = url.and_then(|text| match read_url(&text) {
        Ok(url) => Some(url),
        Err(message) => {
            section.error("url", message);
            None
        }
    });
    let formats = [("ndjson", Format::Ndjson), ("json_array", Format::JsonArray)];
    let format = section.choice("format", &formats).unwrap_or(Format::Ndjson);
    let mut headers = HeaderMap::new();
    let mut credentials = Vec::new();
    read_headers(section, &mut headers, &mut credentials);
    read_login(section, url.as_ref(), &mut headers, &mut credentials);
    let tls = files(section.text("ca"), section.text("cert"), section.text("key"));
    for (has, other) in [(&tls.cert, ("cert", "key")), (&tls.key, ("key", "cert"))] {
        if has.is_some() && (tls.cert.is_none() || tls.key.is_none()) {
            section.error(other.0, format!("`{}` is missing; a client certificate needs both", other.1));
        }
    }
    let plain = url.as_ref().is_some_and(|url| url.scheme_str() == Some("http"));
    if plain && (tls.ca.is_some() || tls.cert.is_some()) {
        section.error("url", "`ca`, `cert` and `key` are for https; write https://");
    }
    let time = |from, to| Duration::from_secs(from)..Duration::from_secs(to);
    Settings {
        url: url.unwrap_or_default(),
        format,
        compression: read_compression(section),
        headers,
        credentials,
        tls,
        timeout: section.time("timeout", time(1, 3600)).unwrap_or(Duration::from_secs(60)),
        limits: read_limits(section),
        added: read_added(section),
    }
}

fn read_url(text: &str) -> Result<Uri, String> {
    // The text itself is never repeated: it may hold a password.
    let url: Uri = text.parse().map_err(|_| "it is no URL; for example https://logs.example.com/ingest".to_owned())?;
    if !matches!(url.scheme_str(), Some("http" | "https")) {
        return Err("it must start with https:// or http://".to_owned());
    }
    match url.authority() {
        Some(authority) if authority.as_str().contains('@') => {
            Err("a login in the URL ends up in logs; set `user` and `password` (such as \"secret:ingest\") instead"
                .to_owned())
        }
        Some(authority) if !authority.host().is_empty() => Ok(url),
        _ => Err("it has no host; for example https://logs.example.com/ingest".to_owned()),
    }
}

pub(super) fn read_compression(section: &Section<'_, '_>) -> Compression {
    let kinds = [("none", Compression::None), ("gzip", Compression::Gzip(4)), ("zstd", Compression::Zstd(3))];
    let kind = section.choice("compression", &kinds).unwrap_or(Compression::None);
    let level_max = if matches!(kind, Compression::Zstd(_)) { 19 } else { 9 };
    let Some(level) = section.count("level", 1..level_max + 1) else { return kind };
    match kind {
        Compression::None => {
            section.error("level", "there is no compression; set `compression` to \"gzip\" or \"zstd\"");
            kind
        }
        // Both are at most 19.
        Compression::Gzip(_) => Compression::Gzip(level as u32),
        Compression::Zstd(_) => Compression::Zstd(level as i32),
    }
}

pub(super) fn read_limits(section: &Section<'_, '_>) -> Limits {
    let mut limits = DEFAULT_LIMITS;
    if let Some(at_once) = section.count("concurrency", 1..65) {
        limits.at_once = at_once as usize;
    }
    if let Some(batch) = section.section("batch") {
        if let Some(size) = batch.size("size", 1 << 10..(64 << 20) + 1) {
            limits.bytes = size as usize;
        }
        if let Some(wait) = batch.time("wait", Duration::from_millis(1)..Duration::from_secs(301)) {
            limits.wait = wait;
        }
        batch.finish();
    }
    limits
}

fn read_headers(section: &Section<'_, '_>, headers: &mut HeaderMap, credentials: &mut Vec<Credential>) {
    for (name, text, span) in section.pairs("headers").unwrap_or_default() {
        let wrong = |message: String| {
            section.doc().error(span.clone(), format!("{}.headers.{}: {message}", section.path(), name.escape_debug()));
        };
        let Ok(key) = HeaderName::try_from(name.as_str()) else {
            wrong("this is no header name".to_owned());
            continue;
        };
        if let Some((_, why)) = OWN.iter().find(|(own, _)| *own == key.as_str()) {
            wrong(format!("this header can not be set; {why}"));
            continue;
        }
        if text.starts_with("secret:") {
            let Some(secret) = section.doc().secret(text, span.clone()) else { continue };
            if let Err(message) = take(Credential { header: key, form: Form::Plain, secret }, headers, credentials) {
                wrong(message);
            }
            continue;
        }
        match HeaderValue::try_from(text) {
            Ok(header) => {
                headers.insert(key, header);
            }
            Err(_) => wrong("its value holds a line break or control character".to_owned()),
        }
    }
}

/// Puts a credential into the headers and among those that are looked after.
fn take(credential: Credential, headers: &mut HeaderMap, credentials: &mut Vec<Credential>) -> Result<(), String> {
    headers.insert(credential.header.clone(), credential.value()?);
    credentials.push(credential);
    Ok(())
}

fn read_login(
    section: &Section<'_, '_>,
    url: Option<&Uri>,
    headers: &mut HeaderMap,
    credentials: &mut Vec<Credential>,
) {
    let token = section.secret("token");
    let (user, password) = (section.text("user"), section.secret("password"));
    let (has_user, has_password) = (section.has("user"), section.has("password"));
    if (section.has("token") && (has_user || has_password))
        || (headers.contains_key("authorization") && (section.has("token") || has_user))
    {
        let key = if section.has("token") { "token" } else { "user" };
        section.error(key, "there are two logins; set one of `token`, `user` with `password`, or the header");
    }
    if has_user != has_password {
        let (there, missing) = if has_user { ("user", "password") } else { ("password", "user") };
        section.error(there, format!("`{missing}` is missing; basic authentication needs both"));
    }
    if user.as_ref().is_some_and(|user| user.contains(':')) {
        section.error("user", "a user name can not hold `:`");
    }
    let login = match (token, user, password) {
        (Some(token), _, _) => Some(("token", Form::Bearer, token)),
        (None, Some(user), Some(password)) => Some(("password", Form::Basic(user), password)),
        _ => None,
    };
    if let Some((key, form, secret)) = login
        && let Err(message) = take(Credential { header: AUTHORIZATION, form, secret }, headers, credentials)
    {
        section.error(key, message);
    }
    let loopback = |host: &str| {
        host == "localhost" || host.trim_matches(['[', ']']).parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
    };
    let plain = url.is_some_and(|url| url.scheme_str() == Some("http") && !loopback(url.host().unwrap_or("")));
    if plain && !credentials.is_empty() {
        let message = format!("{}.url: secrets go over the network in the clear; use https", section.path());
        section.doc().warn(section.span_of("url"), message);
    }
}
