//! `listen` of a forward input: where it listens, and by what rules.
//!
//! An item is an address (`"tcp://127.0.0.1:24224"`), or a table with an `address` and what else holds there. A list of
//! tables may be written as `[[inputs.NAME.listen]]`. Nothing is opened here.

use std::fmt;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::DeValue;

use crate::codec::forward::handshake::HOST_MAX;
use crate::settings::{Secret, Section, describe, nearest};

use super::rules::{Network, RULES_MAX, Rule, Rules, USERS_MAX, User};
use super::tls::Files;

/// The port of the forward protocol.
const DEFAULT_PORT: u16 = 24224;
/// Listeners of one input, at most.
const LISTENERS_MAX: usize = 64;

/// Where it listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// `host:port`
    Tcp(String),
    /// The same with TLS.
    Tls(String),
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => write!(f, "tcp://{address}"),
            Address::Tls(address) => write!(f, "tls://{address}"),
            Address::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

/// One listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listen {
    pub(super) address: Address,
    /// For `tls://`, and only there.
    pub(super) tls: Option<Files>,
    pub(super) rules: Rules,
    /// The name that it gives itself in the handshake; `None`: one made of the machine's.
    pub(super) hostname: Option<String>,
    /// Whether UDP heartbeats are answered on the same port.
    pub(super) heartbeat: bool,
    /// Mode of the Unix socket.
    pub(super) mode: Option<u32>,
    /// User and group of the Unix socket, as names or numbers.
    pub(super) owner: Option<String>,
}

impl Listen {
    fn plain(address: Address) -> Listen {
        Listen { address, tls: None, rules: Rules::default(), hostname: None, heartbeat: true, mode: None, owner: None }
    }
}

/// Reads `listen`. Without it: the usual port on loopback.
pub(super) fn read(section: &Section<'_, '_>) -> Vec<Listen> {
    let Some(value) = section.raw("listen") else {
        return vec![Listen::plain(Address::Tcp(format!("127.0.0.1:{DEFAULT_PORT}")))];
    };
    let items: Vec<&Spanned<DeValue<'_>>> = match value.get_ref() {
        DeValue::Array(items) => items.iter().collect(),
        _ => vec![value],
    };
    if items.is_empty() {
        section.error("listen", "expected at least one address, such as \"tcp://127.0.0.1:24224\"");
    }
    if items.len() > LISTENERS_MAX {
        section.error("listen", format!("{} listeners, more than {LISTENERS_MAX}", items.len()));
    }
    let mut all: Vec<Listen> = Vec::new();
    for (at, item) in items.into_iter().enumerate().take(LISTENERS_MAX) {
        let wrong = |message: String| {
            section.doc().error(item.span(), format!("{}.listen: {message}", section.path()));
        };
        let listen = match item.get_ref() {
            DeValue::String(text) => {
                let text = section.doc().interpolate(text, item.span());
                match read_address(&text) {
                    Ok(Address::Tls(_)) => {
                        wrong(format!(
                            "TLS needs a certificate; write {{ address = \"{text}\", cert = \"/etc/longshore/cert.pem\", \
                             key = \"/etc/longshore/key.pem\" }}"
                        ));
                        None
                    }
                    Ok(address) => Some(Listen::plain(address)),
                    Err(message) => {
                        wrong(message);
                        None
                    }
                }
            }
            DeValue::Table(table) => {
                let path = format!("{}.listen[{at}]", section.path());
                let one = Section::new(section.doc(), table, &path, item.span());
                let listen = read_table(&one);
                one.finish();
                listen
            }
            other => {
                wrong(format!("expected an address or a table with an `address`, got {}", describe(other)));
                None
            }
        };
        let Some(listen) = listen else { continue };
        match all.iter().any(|other| other.address == listen.address) {
            true => wrong(format!("{} stands there twice", listen.address)),
            false => all.push(listen),
        }
    }
    all
}

fn read_address(text: &str) -> Result<Address, String> {
    if let Some(path) = text.strip_prefix("unix://") {
        return match path.starts_with('/') {
            true => Ok(Address::Unix(PathBuf::from(path))),
            false => {
                Err(format!("\"{text}\" needs an absolute path; write for example \"unix:///run/longshore.sock\""))
            }
        };
    }
    let (kind, rest): (fn(String) -> Address, _) = match (text.strip_prefix("tcp://"), text.strip_prefix("tls://")) {
        (Some(rest), _) => (Address::Tcp, rest),
        (_, Some(rest)) => (Address::Tls, rest),
        _ => {
            return Err(format!(
                "\"{text}\" is no address; write \"tcp://{text}\", or \"tls://HOST:PORT\", \"unix:///path\""
            ));
        }
    };
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse::<u16>().ok()),
        _ => (rest, Some(DEFAULT_PORT)),
    };
    match port {
        Some(port) if !host.is_empty() && !host.contains('/') => Ok(kind(format!("{host}:{port}"))),
        _ => Err(format!("\"{text}\" is no address; write for example \"tcp://127.0.0.1:{DEFAULT_PORT}\"")),
    }
}

fn read_table(one: &Section<'_, '_>) -> Option<Listen> {
    let text = one.required_text("address", "\"tcp://0.0.0.0:24224\"");
    let address = text.and_then(|text| match read_address(&text) {
        Ok(address) => Some(address),
        Err(message) => {
            one.error("address", message);
            None
        }
    });
    let is_tls = matches!(address, Some(Address::Tls(_)));
    let is_unix = matches!(address, Some(Address::Unix(_)));
    let tls = read_tls(one, is_tls, address.is_some());
    let rules = read_rules(one);
    let heartbeat = one.flag("heartbeat");
    let mode = one.text("mode").and_then(|text| {
        let mode = u32::from_str_radix(text.trim_start_matches("0o"), 8).ok().filter(|mode| *mode <= 0o777);
        if mode.is_none() {
            one.error("mode", format!("\"{text}\" is no mode; write for example \"0660\""));
        }
        mode
    });
    let owner = one.text("owner");
    if owner.as_ref().is_some_and(|owner| owner.split(':').count() > 2 || owner.split(':').all(str::is_empty)) {
        one.error("owner", "expected a user, a user and group, or a group: \"fluent\", \"fluent:docker\", \":docker\"");
    }
    let hostname = one.text("hostname");
    if hostname.as_ref().is_some_and(|name| name.is_empty() || name.len() > HOST_MAX) {
        one.error("hostname", format!("a name of 1 to {HOST_MAX} bytes, which no sender has"));
    }
    if address.is_some() {
        let misplaced: &[(&'static str, &str)] = if is_unix {
            &[("allow", "tcp:// and tls://"), ("heartbeat", "tcp:// and tls://")]
        } else {
            &[("mode", "unix://"), ("owner", "unix://")]
        };
        for (key, place) in misplaced {
            if one.has(key) {
                one.error(key, format!("`{key}` is for {place}; remove it"));
            }
        }
    }
    if hostname.is_some() && rules.key.is_none() && rules.networks.iter().all(|rule| rule.key.is_none()) {
        one.error("hostname", "it is used in the handshake only; set `shared_key`, or remove it");
    }
    let heartbeat = heartbeat.unwrap_or(!is_unix);
    Some(Listen { address: address?, tls, rules, hostname, heartbeat, mode, owner })
}

fn read_tls(one: &Section<'_, '_>, is_tls: bool, is_known: bool) -> Option<Files> {
    let (cert, key, client_ca) = (one.text("cert"), one.text("key"), one.text("client_ca"));
    if !is_tls {
        for word in ["cert", "key", "client_ca"] {
            if one.has(word) && is_known {
                one.error(word, format!("`{word}` is for tls://; write `address` with tls://, or remove it"));
            }
        }
        return None;
    }
    for (word, there) in [("cert", &cert), ("key", &key)] {
        if there.is_none() && !one.has(word) {
            one.error("address", format!("`{word}` is missing; TLS needs `cert` and `key`, as PEM files"));
        }
    }
    Some(Files { cert: cert?.into(), key: key?.into(), client_ca: client_ca.map(PathBuf::from) })
}

fn read_rules(one: &Section<'_, '_>) -> Rules {
    let users = read_users(one);
    let key = read_secret(one, "shared_key");
    let mut networks = Vec::new();
    let allow = one.raw("allow");
    let items: Vec<&Spanned<DeValue<'_>>> = match allow.map(|value| (value, value.get_ref())) {
        None => Vec::new(),
        Some((_, DeValue::Array(items))) => items.iter().collect(),
        Some((value, _)) => vec![value],
    };
    if allow.is_some() && items.is_empty() {
        one.error("allow", "an empty list lets nobody in; write networks such as \"10.0.0.0/8\", or remove it");
    }
    if items.len() > RULES_MAX {
        one.error("allow", format!("{} networks, more than {RULES_MAX}", items.len()));
    }
    for (at, item) in items.into_iter().enumerate().take(RULES_MAX) {
        let wrong = |message: String| one.doc().error(item.span(), format!("{}.allow: {message}", one.path()));
        match item.get_ref() {
            DeValue::String(text) => match Network::parse(&one.doc().interpolate(text, item.span())) {
                Ok(network) => networks.push(Rule { network, key: None, users: None }),
                Err(message) => wrong(message),
            },
            DeValue::Table(table) => {
                let path = format!("{}.allow[{at}]", one.path());
                let entry = Section::new(one.doc(), table, &path, item.span());
                networks.extend(read_rule(&entry, &users));
                entry.finish();
            }
            other => wrong(format!("expected a network or a table with a `network`, got {}", describe(other))),
        }
    }
    let anonymous = one.flag("anonymous");
    if anonymous.is_some() && allow.is_none() {
        one.error("anonymous", "without `allow` everybody is let in; set `allow`, or remove it");
    }
    let rules = Rules { networks, anonymous: anonymous.unwrap_or(false), key, users };
    // A key that could not be read was reported already.
    if rules.users_need_a_key() && !one.has("shared_key") {
        one.error("users", "users without a shared key would let everybody in; set `shared_key`");
    }
    rules
}

fn read_rule(entry: &Section<'_, '_>, users: &[User]) -> Option<Rule> {
    let network = entry.required_text("network", "\"10.0.0.0/8\"").and_then(|text| match Network::parse(&text) {
        Ok(network) => Some(network),
        Err(message) => {
            entry.error("network", message);
            None
        }
    });
    let key = read_secret(entry, "shared_key");
    let only = entry.texts("users");
    let known: Vec<&str> = users.iter().map(|user| user.name.as_str()).collect();
    for (name, span) in only.iter().flatten() {
        if !known.contains(&name.as_str()) {
            let hint = nearest(name, &known).map_or(String::new(), |near| format!("; did you mean \"{near}\"?"));
            let message = format!("{}.users: the listener's `users` have no \"{}\"{hint}", entry.path(), shown(name));
            entry.doc().error(span.clone(), message);
        }
    }
    if only.as_ref().is_some_and(Vec::is_empty) {
        entry.error("users", "an empty list lets nobody in; name users, or remove it");
    }
    let only = only.map(|names| names.into_iter().map(|(name, _)| name).collect());
    Some(Rule { network: network?, key, users: only })
}

fn read_users(one: &Section<'_, '_>) -> Vec<User> {
    let Some(value) = one.raw("users") else { return Vec::new() };
    let example = "write users = [{ name = \"alice\", password = \"secret:alice\" }]";
    let DeValue::Array(items) = value.get_ref() else {
        one.error("users", format!("expected a list, got {}; {example}", describe(value.get_ref())));
        return Vec::new();
    };
    if items.len() > USERS_MAX {
        one.error("users", format!("{} users, more than {USERS_MAX}", items.len()));
    }
    let mut users: Vec<User> = Vec::new();
    for (at, item) in items.iter().enumerate().take(USERS_MAX) {
        let DeValue::Table(table) = item.get_ref() else {
            let message = format!("{}.users: expected a table, got {}; {example}", one.path(), kind(item));
            one.doc().error(item.span(), message);
            continue;
        };
        let entry = Section::new(one.doc(), table, &format!("{}.users[{at}]", one.path()), item.span());
        let name = entry.required_text("name", "\"alice\"");
        if !entry.has("password") {
            entry.doc().error(entry.span(), format!("{}: `password` is missing; {example}", entry.path()));
        }
        let password = read_secret(&entry, "password");
        match &name {
            Some(name) if name.is_empty() => entry.error("name", "a user without a name"),
            Some(name) if users.iter().any(|user| user.name == *name) => {
                entry.error("name", format!("\"{}\" stands there twice", shown(name)));
            }
            _ => (),
        }
        entry.finish();
        if let (Some(name), Some(password)) = (name, password) {
            users.push(User { name, password });
        }
    }
    users
}

/// A secret that holds something.
fn read_secret(section: &Section<'_, '_>, key: &'static str) -> Option<Secret> {
    if !section.has(key) {
        return None;
    }
    let secret = section.secret(key)?;
    if secret.expose().is_empty() {
        section.error(key, "it is empty; put the secret into the file, or remove the key");
        return None;
    }
    Some(secret)
}

/// A value's kind only: what stands where a password is expected is not repeated.
fn kind(item: &Spanned<DeValue<'_>>) -> &'static str {
    match item.get_ref() {
        DeValue::String(_) => "a string",
        _ => "something else",
    }
}

fn shown(name: &str) -> String {
    name.chars().take(64).flat_map(char::escape_debug).collect()
}
