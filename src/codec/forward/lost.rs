//! Why the framing of a connection is lost: nothing after that byte can be told apart.

use std::fmt;

use super::OPTIONS_MAX;

/// Where and why the framing was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Why.
    pub reason: LostReason,
    /// Bytes from the start of the connection.
    pub offset: u64,
}

/// Why nothing more can be read from a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LostReason {
    /// A value at the top level that is no array, with this first byte.
    NotAFrame(u8),
    /// The byte 0xc1.
    Reserved,
    /// A frame of so many elements.
    Arity(usize),
    /// A frame that is or will be this large, and the limit.
    TooLarge(u64, u64),
    /// Options above their limit.
    Options,
    /// JSON that ends at this byte, which can not stand there.
    NotJson(u8),
    /// JSON with so many levels, the most that is followed.
    TooDeep(usize),
    /// A PING of the shared-key handshake.
    Handshake,
    /// A HELO of the shared-key handshake: the other side takes connections too.
    Helo,
}

impl fmt::Display for LostReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LostReason::NotAFrame(byte) => write!(f, "expected a MessagePack array, got the byte 0x{byte:02x}"),
            LostReason::Reserved => f.write_str("the byte 0xc1, which MessagePack does not use"),
            LostReason::Arity(count) => write!(f, "expected a frame of 2 to 4 elements, got {count}"),
            LostReason::TooLarge(bytes, max) => {
                write!(f, "a frame of at least {bytes} bytes, above the limit of {max} (`frame_max`)")
            }
            LostReason::Options => write!(f, "options of more than {OPTIONS_MAX} bytes"),
            LostReason::NotJson(byte) => write!(f, "no JSON: unexpected byte 0x{byte:02x}"),
            LostReason::TooDeep(levels) => write!(f, "JSON nested more than {levels} levels deep"),
            LostReason::Helo => f.write_str("a HELO: the other side is a receiver too; connect a sender here"),
            LostReason::Handshake => {
                f.write_str("a PING on a listener without a shared key; set `shared_key` on it, or remove the sender's")
            }
        }
    }
}
