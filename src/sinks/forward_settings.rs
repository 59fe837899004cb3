//! Reading the section of a `forward` sink.

use std::sync::Arc;
use std::time::Duration;

use toml::de::DeValue;

use super::forward::Settings;
use super::forward_body::Shape;
use super::forward_link::{Address, Identities, Identity};
use super::forward_servers::Server;
use super::http_settings::{read_compression, read_limits};
use super::{http, read_added_or, tls};
use crate::batch::Added;
use crate::codec::forward::encode::{Mode, TimeForm};
use crate::settings::{Section, describe};

/// What is added to a record: not what the frame has anyway.
const ADDED: Added = Added { time: false, tag: false, ..Added::ALL };
/// Receivers of one sink, at most.
const SERVERS_MAX: usize = 64;
const EXAMPLE: &str = "[\"tcp://10.0.0.5:24224\"]";

/// Reads all keys but `type` and `match`. Reports mistakes, and returns something even then.
pub fn read(section: &Section<'_, '_>, name: &str) -> Settings {
    let servers = read_servers(section);
    let tls = http::files(section.text("ca"), section.text("cert"), section.text("key"));
    read_tls(section, &servers, &tls);
    let time = |from, to| Duration::from_secs(from)..Duration::from_secs(to);
    let acks = section.flag("ack").unwrap_or(true);
    let ack_timeout = section.time("ack_timeout", time(1, 3601));
    if !acks && ack_timeout.is_some() {
        section.error("ack_timeout", "there are no acks to wait for (`ack = false`)");
    }
    Settings {
        identity: read_identity(section, name),
        server_name: read_server_name(section, &servers),
        servers,
        tls,
        ack_timeout: ack_timeout.unwrap_or(Duration::from_secs(60)),
        reconnect: section.time("reconnect", time(0, 7 * 86_400 + 1)).unwrap_or(Duration::from_secs(600)),
        shape: Shape {
            acks,
            compression: read_compression(section),
            mode: section.choice("blob", &[("bin", Mode::Packed), ("str", Mode::PackedText)]).unwrap_or_default(),
        },
        time: section
            .choice("time", &[("nanoseconds", TimeForm::Event), ("seconds", TimeForm::Seconds)])
            .unwrap_or_default(),
        limits: read_limits(section),
        added: read_added_or(section, ADDED),
    }
}

fn read_servers(section: &Section<'_, '_>) -> Vec<(Address, Server)> {
    let Some(value) = section.raw("servers") else {
        let message = format!("{}: `servers` is missing; for example servers = {EXAMPLE}", section.path());
        section.doc().error(section.span(), message);
        return Vec::new();
    };
    let items = match value.get_ref() {
        DeValue::Array(items) => items.iter().collect(),
        _ => vec![value],
    };
    if items.is_empty() || items.len() > SERVERS_MAX {
        section.error("servers", format!("expected 1 to {SERVERS_MAX} addresses; for example {EXAMPLE}"));
    }
    let mut servers = Vec::new();
    for (at, item) in items.into_iter().enumerate() {
        let path = format!("{}.servers[{at}]", section.path());
        let wrong = |message: String| section.doc().error(item.span(), format!("{path}: {message}"));
        let (text, server) = match item.get_ref() {
            DeValue::String(text) => (section.doc().interpolate(text, item.span()), Server::new(1, false)),
            DeValue::Table(table) => {
                let one = Section::new(section.doc(), table, &path, item.span());
                let address = one.required_text("address", "\"tcp://10.0.0.5:24224\"");
                let weight = one.count("weight", 1..1001).unwrap_or(1);
                let standby = one.flag("standby").unwrap_or(false);
                one.finish();
                let Some(address) = address else { continue };
                // At most 1000.
                (address, Server::new(weight as u32, standby))
            }
            other => {
                wrong(format!("expected an address or {{ address = \"...\", weight = 1 }}, got {}", describe(other)));
                continue;
            }
        };
        match Address::parse(&text) {
            Ok(address) if servers.iter().any(|(known, _)| *known == address) => {
                wrong(format!("{address} is there twice; set its `weight` instead"));
            }
            Ok(address) => servers.push((address, server)),
            Err(message) => wrong(message),
        }
    }
    servers
}

fn read_tls(section: &Section<'_, '_>, servers: &[(Address, Server)], tls: &tls::Files) {
    for (has, other) in [(&tls.cert, ("cert", "key")), (&tls.key, ("key", "cert"))] {
        if has.is_some() && (tls.cert.is_none() || tls.key.is_none()) {
            section.error(other.0, format!("`{}` is missing; a client certificate needs both", other.1));
        }
    }
    let used = servers.iter().any(|(address, _)| matches!(address, Address::Tls(_)));
    if !used && !servers.is_empty() && (tls.ca.is_some() || tls.cert.is_some()) {
        section.error("servers", "`ca`, `cert` and `key` are for TLS; write tls:// before the address");
    }
}

fn read_server_name(section: &Section<'_, '_>, servers: &[(Address, Server)]) -> Option<String> {
    let name = section.text("server_name")?;
    if rustls::pki_types::ServerName::try_from(name.as_str()).is_err() {
        section.error("server_name", format!("\"{}\" is no host name", name.escape_debug()));
        return None;
    }
    if !servers.iter().any(|(address, _)| matches!(address, Address::Tls(_))) {
        section.error("server_name", "it is for TLS; write tls:// before the address");
    }
    Some(name)
}

fn read_identity(section: &Section<'_, '_>, name: &str) -> Option<Arc<Identities>> {
    let key = section.secret("shared_key");
    let (user, password) = (section.text("user"), section.secret("password"));
    let (has_user, has_password) = (section.has("user"), section.has("password"));
    if has_user != has_password {
        let (there, missing) = if has_user { ("user", "password") } else { ("password", "user") };
        section.error(there, format!("`{missing}` is missing; a login needs both"));
    }
    let host = section.text("hostname");
    if !section.has("shared_key") {
        for key in ["user", "hostname"] {
            if section.table().contains_key(key) {
                section.error(key, "the protocol has it only with a `shared_key`");
            }
        }
        return None;
    }
    let key = key?;
    if key.expose().is_empty() {
        section.error("shared_key", "it is empty");
    }
    let host = host.unwrap_or_else(|| {
        // Fluentd refuses a client that has its own name, so the sink's is part of it.
        let node = rustix::system::uname();
        format!("{}.{name}", node.nodename().to_string_lossy())
    });
    if host.is_empty() || host.len() > crate::codec::forward::handshake::HOST_MAX {
        section.error("hostname", "expected 1 to 255 bytes");
    }
    Some(Identities::new(Identity { host, key, user: user.zip(password) }))
}
