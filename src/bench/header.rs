//! What figures say nothing without: the machine, how busy it was at the start, and whose versions were measured.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::child;
use super::shipper::Shipper;

/// See the above.
#[derive(Clone, Debug)]
pub struct Header {
    /// This program, the processor, its cores, the kernel.
    pub machine: String,
    /// Processes that ran or waited for a disk, over 1, 5 and 15 minutes.
    pub load_average: Option<[f64; 3]>,
    /// The name of each peer, and what it says that it is.
    pub peers: Vec<(String, String)>,
}

impl Header {
    /// Asks the system, and each of `peers` in the folder `dir`.
    pub fn of(peers: &[Shipper], dir: &Path) -> Header {
        let ask = |peer: &Shipper| {
            let version =
                child::version(&peer.program, dir).unwrap_or_else(|error| format!("version unknown: {error}"));
            (peer.name.clone(), version)
        };
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        // The load first: to ask is work, too.
        Header { load_average: load_of(&load), machine: machine(), peers: peers.iter().map(ask).collect() }
    }

    /// For people: a line each.
    pub fn text(&self) -> String {
        let mut out = self.machine.clone();
        if let Some([one, five, fifteen]) = self.load_average {
            let _ = write!(out, ", load average {one:.2} {five:.2} {fifteen:.2}");
        }
        for (name, version) in &self.peers {
            let _ = write!(out, "\n{name}: {version}");
        }
        out + "\n"
    }

    /// For programs: the list of peers.
    pub fn peers_json(&self) -> Value {
        self.peers.iter().map(|(name, version)| json!({ "shipper": name, "version": version })).collect()
    }
}

fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown processor");
    let model = model.trim_start_matches(|c: char| c.is_whitespace() || c == ':');
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("longshore {} on {model}, {cores} cores, Linux {}", env!("LONGSHORE_VERSION"), kernel.trim())
}

/// The first three numbers of `/proc/loadavg`.
fn load_of(text: &str) -> Option<[f64; 3]> {
    let numbers: Vec<f64> = text.split_ascii_whitespace().map_while(|word| word.parse().ok()).take(3).collect();
    numbers.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_load_and_the_versions_of_peers_stand_in_the_header() {
        assert_eq!(load_of("1.20 0.95 0.80 2/345 6789\n"), Some([1.2, 0.95, 0.8]));
        assert_eq!((load_of("1.20"), load_of("")), (None, None));
        let peers = vec![("fluent-bit".to_owned(), "Fluent Bit v5.1.1".to_owned())];
        let header = Header { machine: "a machine".into(), load_average: Some([1.2, 0.95, 0.8]), peers };
        assert_eq!(header.text(), "a machine, load average 1.20 0.95 0.80\nfluent-bit: Fluent Bit v5.1.1\n");
        assert_eq!(header.peers_json(), json!([{ "shipper": "fluent-bit", "version": "Fluent Bit v5.1.1" }]));
        let bare = Header { load_average: None, peers: vec![], ..header };
        assert_eq!((bare.text(), bare.peers_json()), ("a machine\n".to_owned(), json!([])));
    }
}
