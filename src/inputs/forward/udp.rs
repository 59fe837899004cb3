//! The UDP heartbeat on a listener's port: old Fluentd senders with `heartbeat_type udp` take us for dead without it.
//!
//! One zero byte answers a datagram of at most one byte (fluency's is empty). Two answerers that somebody sets on each
//! other would go on for ever, so nothing is answered to our own port number, nor more than [`BURST`] datagrams at once
//! and [`BURST`] a second. The answer is never longer than the question by more than a byte: no amplifier.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;

use crate::workers::Stop;

/// Answers within a second, at most.
const BURST: u32 = 200;
/// Time before the next try after an error.
const PAUSE: Duration = Duration::from_millis(200);

/// Answers until the word to stop.
pub(super) async fn serve(socket: UdpSocket, stop: Stop) {
    let Ok(own) = socket.local_addr().map(|address| address.port()) else { return };
    let (mut left, mut since) = (BURST, Instant::now());
    // Two bytes: enough to see that there is more than one.
    let mut bytes = [0; 2];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut bytes) => received,
            () = stop.wait() => return,
        };
        let (len, from) = match received {
            Ok(received) => received,
            Err(_) => {
                // Some systems report the unreachable port of an earlier answer here.
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        if since.elapsed() >= Duration::from_secs(1) {
            (left, since) = (BURST, Instant::now());
        }
        if left > 0 && is_heartbeat(len, from, own) {
            left -= 1;
            let _ = socket.try_send_to(&[0], from);
        }
    }
}

fn is_heartbeat(len: usize, from: SocketAddr, own: u16) -> bool {
    len <= 1 && from.port() != own
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_between_two_receivers_can_not_begin() {
        let from = |port| SocketAddr::from(([10, 0, 0, 1], port));
        assert!(is_heartbeat(0, from(40_000), 24_224) && is_heartbeat(1, from(40_000), 24_224));
        assert!(!is_heartbeat(2, from(40_000), 24_224));
        assert!(!is_heartbeat(1, from(24_224), 24_224));
    }
}
