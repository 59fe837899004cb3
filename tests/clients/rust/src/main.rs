//! Sends numbered records with published Rust clients of the forward protocol: `poston` (Forward mode, waits for every
//! ack) and the `tracing` layer of `tracing-fluentd` (Forward mode, a connection for each flush).
//!
//! `rust-client 127.0.0.1 PORT COUNT`: tags `rust.poston` and `rust.tracing` get COUNT records each.

use std::net::TcpStream;
use std::time::SystemTime;

use poston::{Client, Settings, WorkerPool};
use serde::Serialize;
use tracing_subscriber::layer::SubscriberExt;

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Record {
    seq: u64,
    text: &'static str,
    ratio: f64,
    none: Option<u8>,
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let address = format!("{}:{}", arguments[1], arguments[2]);
    let count: u64 = arguments[3].parse().expect("a count");

    let pool = WorkerPool::with_settings(&address, &Settings::default()).expect("connects");
    for seq in 0..count {
        let record = Record { seq, text: "grüße ✓", ratio: 2.5, none: None };
        pool.send("rust.poston".to_owned(), &record, SystemTime::now()).expect("sent");
    }
    // Waits for the acks.
    pool.terminate().expect("all are acknowledged");

    let writer = move || TcpStream::connect(&address);
    let builder = tracing_fluentd::Builder::new("rust.tracing").flatten().with_writer(writer);
    let (layer, guard) = builder.layer_guarded().expect("starts");
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
        for seq in 0..count {
            tracing::info!(seq, text = "grüße ✓", "numbered");
        }
    });
    // Waits for the last flush.
    drop(guard);
}
