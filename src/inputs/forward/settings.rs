//! What the section of a forward input says: its limits, and [`listen`].

use std::time::Duration;

use crate::codec::forward::Limits;
use crate::codec::msgpack::DEPTH_MAX;
use crate::inputs::Ack;
use crate::settings::Section;

use super::listen::{self, Listen};

/// What the section says.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) listen: Vec<Listen>,
    pub(super) ack: Ack,
    pub(super) docker: bool,
    pub(super) limits: Limits,
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
    let inflate = crate::codec::gzip::Limits {
        output_max: size("decompressed_max", usual.inflate.output_max, 4 << 30),
        ratio_max: section.count("ratio_max", 1..100_001).unwrap_or(usual.inflate.ratio_max),
        free: usual.inflate.free,
    };
    // All of these are far below usize on 64-bit systems; elsewhere the largest value is a limit as good.
    let usize_of = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    let limits = Limits {
        frame_max: size("frame_max", usual.frame_max, 1 << 30),
        whole_max: usual.whole_max,
        entry_max: usize_of(size("record_max", usual.entry_max as u64, 64 << 20)),
        tag_max: usize_of(size("tag_max", usual.tag_max as u64, 64 << 10)),
        depth_max: usize_of(section.count("depth_max", 1..DEPTH_MAX as u64 + 1).unwrap_or(usual.depth_max as u64)),
        inflate,
    };
    Settings {
        listen: listen::read(section),
        ack,
        docker: section.flag("docker").unwrap_or(true),
        limits,
        connections_max: usize_of(section.count("connections_max", 1..1_000_001).unwrap_or(4096)),
        peer_connections_max: usize_of(section.count("peer_connections_max", 1..1_000_001).unwrap_or(512)),
        handshake: section
            .time("handshake", Duration::from_millis(10)..Duration::from_secs(601))
            .unwrap_or(Duration::from_secs(10)),
        stall: section
            .time("stall", Duration::from_millis(10)..Duration::from_secs(86_401))
            .unwrap_or(Duration::from_secs(30)),
    }
}
