//! Who may send to a listener: networks, shared keys and users.
//!
//! The first network of `allow` that holds the peer's address decides; a peer in none of them is refused, unless
//! `anonymous` lets it in by the listener's own key. An IPv4 address in IPv6 clothes (`::ffff:10.0.0.5`) counts as
//! IPv4. Keys and passwords that come from files are read again when these change ([`Rules::read_again`]).
//! Limits: [`RULES_MAX`] networks, [`USERS_MAX`] users.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr};

use crate::settings::Secret;

/// Networks of one listener, at most.
pub(super) const RULES_MAX: usize = 1024;
/// Users of one listener, at most.
pub(super) const USERS_MAX: usize = 1024;

/// `10.0.0.0/8`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Network {
    base: IpAddr,
    bits: u32,
}

impl Network {
    /// Reads an address, alone or with a length.
    pub(super) fn parse(text: &str) -> Result<Network, String> {
        let example = "write for example \"10.0.0.0/8\" or \"fd00::/8\"";
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let Ok(address) = address.parse::<IpAddr>() else {
            return Err(format!("\"{text}\" is no network; {example}"));
        };
        let width = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits.map(str::parse::<u32>) {
            None => width,
            Some(Ok(bits)) if bits <= width => bits,
            Some(_) => return Err(format!("\"{text}\": the length of a network is 0 to {width}; {example}")),
        };
        let (address, bits) = match (address.to_canonical(), address) {
            (IpAddr::V4(mapped), IpAddr::V6(_)) if bits >= 96 => (IpAddr::V4(mapped), bits - 96),
            _ => (address, bits),
        };
        let network = Network { base: masked(address, bits), bits };
        if network.base != address {
            return Err(format!("\"{text}\" has bits beyond its length; write \"{network}\""));
        }
        Ok(network)
    }

    fn holds(&self, peer: IpAddr) -> bool {
        peer.is_ipv4() == self.base.is_ipv4() && masked(peer, self.bits) == self.base
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.bits)
    }
}

/// The first bits of an address.
pub(super) fn masked(address: IpAddr, bits: u32) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - bits.min(32)).unwrap_or(0);
            IpAddr::V4((u32::from(v4) & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - bits.min(128)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(v6) & mask))
        }
    }
}

/// One entry of `allow`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) network: Network,
    /// Instead of the listener's.
    pub(super) key: Option<Secret>,
    /// Instead of all of the listener's.
    pub(super) users: Option<Vec<String>>,
}

/// A user of the listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) password: Secret,
}

/// The rules of one listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rules {
    /// The first that holds the peer decides; none at all: everybody.
    pub(super) networks: Vec<Rule>,
    /// Whether a peer in none of them is let in as if there were none.
    pub(super) anonymous: bool,
    pub(super) key: Option<Secret>,
    pub(super) users: Vec<User>,
}

/// What one peer has to prove.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms<'r> {
    /// The shared key; `None`: nothing at all.
    pub(super) key: Option<&'r Secret>,
    users: &'r [User],
    only: Option<&'r [String]>,
}

impl Rules {
    /// The terms for a peer; `None` for one that is not let in. A peer of a Unix socket has no address.
    pub(super) fn terms(&self, peer: Option<IpAddr>) -> Option<Terms<'_>> {
        let own = Terms { key: self.key.as_ref(), users: &self.users, only: None };
        let Some(peer) = peer.filter(|_| !self.networks.is_empty()) else { return Some(own) };
        let peer = peer.to_canonical();
        match self.networks.iter().find(|rule| rule.network.holds(peer)) {
            Some(rule) => Some(Terms { key: rule.key.as_ref().or(own.key), only: rule.users.as_deref(), ..own }),
            None => self.anonymous.then_some(own),
        }
    }

    /// Whether somebody could come in by users without a key, that is, by nothing.
    pub(super) fn users_need_a_key(&self) -> bool {
        let open = self.networks.is_empty() || self.anonymous || self.networks.iter().any(|rule| rule.key.is_none());
        !self.users.is_empty() && self.key.is_none() && open
    }

    /// Whether there is anything to read again.
    pub(super) fn has_secrets(&self) -> bool {
        self.key.is_some() || !self.users.is_empty() || self.networks.iter().any(|rule| rule.key.is_some())
    }

    /// The same with what the files of its secrets say now.
    ///
    /// # Errors
    /// The file that can not be read, or is empty; never what is in it.
    pub(super) fn read_again(&self) -> io::Result<Rules> {
        let mut rules = self.clone();
        for secret in rules.key.iter_mut().chain(rules.networks.iter_mut().filter_map(|rule| rule.key.as_mut())) {
            *secret = secret.read_again()?;
        }
        for user in &mut rules.users {
            user.password = user.password.read_again()?;
        }
        Ok(rules)
    }
}

impl<'r> Terms<'r> {
    /// Whether a user is asked for.
    pub(super) fn asks_user(&self) -> bool {
        !self.users.is_empty()
    }

    /// The password of a user who may come from there.
    pub(super) fn password(&self, name: &[u8]) -> Option<&'r [u8]> {
        let user = self.users.iter().find(|user| user.name.as_bytes() == name)?;
        let allowed = self.only.is_none_or(|only| only.contains(&user.name));
        allowed.then_some(user.password.expose().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().expect("an address"))
    }

    fn rule(network: &str, key: Option<&str>, users: Option<&[&str]>) -> Rule {
        Rule {
            network: Network::parse(network).expect("a network"),
            key: key.map(|key| Secret::new(key.to_owned())),
            users: users.map(|users| users.iter().map(|user| (*user).to_owned()).collect()),
        }
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address_that_it_stands_for() {
        let rules = Rules { networks: vec![rule("10.0.0.0/8", None, None)], ..Rules::default() };
        for inside in ["10.0.0.5", "::ffff:10.0.0.5", "10.255.255.255"] {
            assert!(rules.terms(ip(inside)).is_some(), "{inside}");
        }
        for outside in ["11.0.0.5", "::ffff:11.0.0.5", "::10.0.0.5", "fd00::1"] {
            assert!(rules.terms(ip(outside)).is_none(), "{outside}");
        }
        assert!(rules.terms(None).is_some(), "a Unix socket has no network");
        assert_eq!(Network::parse("::ffff:10.0.0.0/104"), Network::parse("10.0.0.0/8"));
    }

    #[test]
    fn the_first_network_decides_key_and_users_and_others_are_refused_unless_anonymous() {
        let user = |name: &str| User { name: name.to_owned(), password: Secret::new(format!("of {name}")) };
        let mut rules = Rules {
            networks: vec![
                rule("10.1.0.0/16", Some("one"), Some(&["alice"])),
                rule("10.0.0.0/8", None, None),
                rule("fd00::/8", Some("six"), None),
            ],
            key: Some(Secret::new("own".to_owned())),
            users: vec![user("alice"), user("bob")],
            ..Rules::default()
        };
        let key = |rules: &Rules, peer: &str| {
            rules.terms(ip(peer)).map(|terms| terms.key.expect("each has one").expose().to_owned())
        };
        assert_eq!(key(&rules, "10.1.2.3").as_deref(), Some("one"));
        assert_eq!(key(&rules, "10.2.2.3").as_deref(), Some("own"));
        assert_eq!(key(&rules, "fd12::1").as_deref(), Some("six"));
        assert_eq!(key(&rules, "192.168.0.1"), None);
        let terms = rules.terms(ip("10.1.2.3")).expect("let in");
        assert_eq!(terms.password(b"alice"), Some(&b"of alice"[..]));
        assert_eq!((terms.password(b"bob"), terms.password(b"eve")), (None, None));
        assert_eq!(rules.terms(ip("10.2.2.3")).expect("let in").password(b"bob"), Some(&b"of bob"[..]));
        rules.anonymous = true;
        assert_eq!(key(&rules, "192.168.0.1").as_deref(), Some("own"));
        assert!(!rules.users_need_a_key());
        rules.key = None;
        assert!(rules.users_need_a_key(), "users without a key are no login at all");
    }

    #[test]
    fn what_is_no_network_is_refused_with_the_right_text() {
        for (text, way_out) in [
            ("10.0.0.5/8", "write \"10.0.0.0/8\""),
            ("10.0.0.0/33", "0 to 32"),
            ("10.0.0.0/x", "0 to 32"),
            ("::/129", "0 to 128"),
            ("example.com", "is no network"),
            ("", "is no network"),
        ] {
            let message = Network::parse(text).expect_err("no network");
            assert!(message.contains(way_out), "{message}");
        }
        assert!(Network::parse("0.0.0.0/0").is_ok_and(|all| all.holds("1.2.3.4".parse().expect("an address"))));
        assert_eq!(Network::parse("127.0.0.1").map(|one| one.to_string()).as_deref(), Ok("127.0.0.1/32"));
    }
}
