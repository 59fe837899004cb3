//! What the section of a forward input says: its limits, and [`listen`].

use std::time::Duration;

use crate::codec::forward::Limits;
use crate::codec::msgpack::DEPTH_MAX;
use crate::inputs::Ack;
use crate::settings::Section;

use super::acks::AckLimits;
use super::listen::{self, Listen};

/// What the section says.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) listen: Vec<Listen>,
    pub(super) ack: Ack,
    pub(super) docker: bool,
    pub(super) limits: Limits,
    pub(super) acks: AckLimits,
    pub(super) connections_max: usize,
    pub(super) peer_connections_max: usize,
    /// For TLS and the shared key together.
    pub(super) handshake: Duration,
    /// Within a frame.
    pub(super) stall: Duration,
}

/// Reads all keys. Reports mistakes, and returns something even then.
pub(super) fn read(section: &Section<'_, '_>) -> Settings {
    let words = [("durable", Ack::Durable), ("delivered", Ack::Delivered), ("accepted", Ack::Accepted)];
    let ack = section.choice("ack", &words).unwrap_or(Ack::Durable);
    let usual = Limits::default();
    let size = |key, usual: u64, max: u64| section.size(key, 1..max + 1).unwrap_or(usual);
    let time = |key, usual: Duration, max: u64| {
        section.time(key, Duration::from_millis(10)..Duration::from_secs(max + 1)).unwrap_or(usual)
    };
    let inflate = crate::codec::gzip::Limits {
        output_max: size("decompressed_max", usual.inflate.output_max, 4 << 30),
        ratio_max: section.count("ratio_max", 1..100_001).unwrap_or(usual.inflate.ratio_max),
        free: size("ratio_free", usual.inflate.free, 1 << 30),
    };
    // All of these are far below usize on 64-bit systems; elsewhere the largest value is a limit as good.
    let usize_of = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    let limits = Limits {
        frame_max: size("frame_max", usual.frame_max, 1 << 30),
        whole_max: usize_of(section.size("frame_whole_max", 1 << 10..(16 << 20) + 1).unwrap_or(usual.whole_max as u64)),
        entry_max: usize_of(size("record_max", usual.entry_max as u64, 64 << 20)),
        tag_max: usize_of(size("tag_max", usual.tag_max as u64, 64 << 10)),
        depth_max: usize_of(section.count("depth_max", 1..DEPTH_MAX as u64 + 1).unwrap_or(usual.depth_max as u64)),
        inflate,
    };
    let usual = AckLimits::default();
    let mut acks = AckLimits {
        max: usize_of(section.size("acks_max", 4 << 10..(1 << 30) + 1).unwrap_or(usual.max as u64)),
        unread_max: usize_of(size("acks_unread_max", usual.unread_max as u64, 1 << 30)),
        stall: time("acks_stall", usual.stall, 3_600),
        unread_stall: time("acks_unread_stall", usual.unread_stall, 3_600),
        last_wait: time("acks_last_wait", usual.last_wait, 3_600),
    };
    // The usual value of the one gives way to the other that is set.
    if !section.has("acks_unread_max") {
        acks.unread_max = acks.unread_max.min(acks.max);
    }
    if !section.has("acks_unread_stall") {
        acks.unread_stall = acks.unread_stall.min(acks.stall);
    }
    if acks.unread_max > acks.max {
        let message =
            "`acks_unread_max` is above `acks_max`, at which reading pauses, so it is never reached; lower it";
        section.error("acks_unread_max", message);
    }
    if acks.unread_stall > acks.stall {
        let message = "`acks_unread_stall` is above `acks_stall`, which ends the connection before; lower it";
        section.error("acks_unread_stall", message);
    }
    Settings {
        listen: listen::read(section),
        ack,
        docker: section.flag("docker").unwrap_or(true),
        limits,
        acks,
        connections_max: usize_of(section.count("connections_max", 1..1_000_001).unwrap_or(4096)),
        peer_connections_max: usize_of(section.count("peer_connections_max", 1..1_000_001).unwrap_or(512)),
        handshake: time("handshake", Duration::from_secs(10), 600),
        stall: time("stall", Duration::from_secs(30), 86_400),
    }
}
