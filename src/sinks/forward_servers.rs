//! Which of several receivers is tried next: by weight among those that work, then the standbys, then those that failed.
//!
//! Pure: it takes `now` and does no I/O. A receiver that failed is out of the choice until somebody connected to it
//! again: a probe, after a wait that doubles from 1 s to 60 s with full jitter, or a request that found none better.

use std::time::{Duration, Instant};

use crate::backoff::NETWORK;

/// What is known of one receiver.
#[derive(Clone, Debug)]
pub struct Server {
    /// Its share of the requests among those that work.
    pub weight: u32,
    /// Used only while no other one works.
    pub standby: bool,
    failures: u32,
    failed_at: Option<Instant>,
}

impl Server {
    /// One that nothing is known of yet.
    pub fn new(weight: u32, standby: bool) -> Server {
        Server { weight, standby, failures: 0, failed_at: None }
    }
}

/// The receivers of one sink.
#[derive(Debug)]
pub struct Servers {
    servers: Vec<Server>,
    rng: fastrand::Rng,
}

impl Servers {
    /// All of them work, as far as is known.
    pub fn new(servers: Vec<Server>, seed: u64) -> Servers {
        Servers { servers, rng: fastrand::Rng::with_seed(seed) }
    }

    /// All of them, in the order to be tried.
    pub fn order(&mut self) -> Vec<usize> {
        // A weighted shuffle: each one draws a time of an exponential clock that runs by its weight.
        let mut drawn: Vec<(u8, f64, usize)> = Vec::with_capacity(self.servers.len());
        for (at, server) in self.servers.iter().enumerate() {
            let draw = -(1.0 - self.rng.f64()).ln() / f64::from(server.weight.max(1));
            let rank = match (server.failed_at, server.standby) {
                (None, false) => 0,
                (None, true) => 1,
                (Some(_), _) => 2,
            };
            drawn.push((rank, draw, at));
        }
        drawn.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        drawn.into_iter().map(|(_, _, at)| at).collect()
    }

    /// It failed. Says how long to wait before it is probed, if it worked before: then nobody probes it yet.
    pub fn failed(&mut self, at: usize, now: Instant) -> Option<Duration> {
        let server = &mut self.servers[at];
        if server.failed_at.replace(now).is_some() {
            return None;
        }
        server.failures = 0;
        Some(self.wait(at))
    }

    /// A probe failed: how long to wait before the next one.
    pub fn wait(&mut self, at: usize) -> Duration {
        self.servers[at].failures = self.servers[at].failures.saturating_add(1);
        NETWORK.jittered(self.servers[at].failures, &mut self.rng)
    }

    /// It works. Says for how long it did not.
    pub fn works(&mut self, at: usize, now: Instant) -> Option<Duration> {
        self.servers[at].failed_at.take().map(|failed| now.saturating_duration_since(failed))
    }

    /// Whether it failed and nobody has connected to it since.
    pub fn is_down(&self, at: usize) -> bool {
        self.servers[at].failed_at.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers() -> Servers {
        Servers::new(vec![Server::new(3, false), Server::new(1, false), Server::new(1, true)], 7)
    }

    #[test]
    fn requests_are_shared_by_weight_and_standbys_wait() {
        let mut servers = servers();
        let mut first = [0; 3];
        for _ in 0..4000 {
            let order = servers.order();
            assert_eq!(order[2], 2);
            first[order[0]] += 1;
        }
        assert!((2800..3200).contains(&first[0]) && first[2] == 0, "{first:?}");
    }

    #[test]
    fn a_receiver_that_failed_is_the_last_choice_until_it_works() {
        let (mut servers, now) = (servers(), Instant::now());
        assert!(servers.failed(0, now).is_some());
        // The probe is under way: no second one.
        assert_eq!(servers.failed(0, now), None);
        assert_eq!(servers.order(), [1, 2, 0]);
        servers.failed(1, now);
        assert_eq!(servers.order()[0], 2);
        assert_eq!(servers.works(0, now + Duration::from_secs(3)), Some(Duration::from_secs(3)));
        assert_eq!(servers.works(0, now), None);
        assert!(servers.is_down(1) && !servers.is_down(0));
        assert_eq!(servers.order(), [0, 2, 1]);
    }

    #[test]
    fn probes_come_later_and_later_and_never_at_once() {
        let mut servers = servers();
        let mut longest = Duration::ZERO;
        for _ in 0..200 {
            let wait = servers.wait(0);
            assert!((Duration::from_millis(100)..=Duration::from_secs(60)).contains(&wait));
            longest = longest.max(wait);
        }
        assert!(longest > Duration::from_secs(30));
    }
}
