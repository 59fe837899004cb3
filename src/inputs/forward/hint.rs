//! What a sender that speaks something else should be told, by its first bytes.

use crate::codec::forward::LostReason;

/// For a listener without TLS; `None` for what may be the forward protocol.
pub(super) fn of(first: &[u8]) -> Option<&'static str> {
    match first {
        [0x16, 0x03, ..] => Some("a TLS hello on a port without TLS; listen on tls://, or switch off the sender's TLS"),
        _ => of_text(first),
    }
}

/// For a connection whose framing was lost for that reason, and what stands there.
pub(super) fn of_lost(reason: LostReason, first: &[u8]) -> Option<&'static str> {
    let LostReason::NotAFrame(_) = reason else { return None };
    match first {
        [b'{' | b'[', ..] => Some("JSON on a connection that began with MessagePack; a connection speaks one of them"),
        _ => of(first),
    }
}

/// For a listener with TLS; `None` for TLS.
pub(super) fn on_tls(first: &[u8]) -> Option<&'static str> {
    match first {
        [0x16, ..] => None,
        _ => Some(of_text(first).unwrap_or("no TLS on a port with TLS; switch on the sender's TLS, or send to tcp://")),
    }
}

fn of_text(first: &[u8]) -> Option<&'static str> {
    match first {
        [b'S', b'S', b'H', b'-', ..] => Some("SSH on the forward port"),
        [b'G' | b'P' | b'H' | b'D' | b'O' | b'C', second, ..] if second.is_ascii_uppercase() => {
            Some("HTTP on the forward port; it speaks the Fluentd forward protocol only")
        }
        _ => None,
    }
}
