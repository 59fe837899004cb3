//! The client of `longshore healthcheck` and `longshore audit`: one GET to a node, for containers without curl.
//!
//! Limits: 2 s to connect, 2 s for each read or write, 5 s in all; an answer of 4 MiB (the ledger of 64 inputs at 64 sinks is 1 MiB).

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const STEP: Duration = Duration::from_secs(2);
const IN_ALL: Duration = Duration::from_secs(5);
const ANSWER_MAX: usize = 4 << 20;

/// Asks `path` of the node that listens at `address`. A status of 2xx is `Ok` with the first line of the body.
///
/// # Errors
/// What went wrong, or the node's answer.
pub fn ask(address: SocketAddr, path: &str) -> Result<String, String> {
    let address = reachable(address);
    let answer = exchange(address, path).map_err(|error| format!("http://{address}{path}: {error}"))?;
    let text = String::from_utf8_lossy(&answer);
    let status = text.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).and_then(|code| code.parse::<u16>().ok());
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body).lines().next().unwrap_or("").to_owned();
    match status {
        Some(200..=299) => Ok(body),
        Some(code) => Err(format!("http://{address}{path}: {code} {body}")),
        None => Err(format!("http://{address}{path}: the answer is not HTTP; is it longshore that listens there?")),
    }
}

/// A node that listens on every address is asked on loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn exchange(address: SocketAddr, path: &str) -> std::io::Result<Vec<u8>> {
    let until = Instant::now() + IN_ALL;
    let mut stream = TcpStream::connect_timeout(&address, STEP)?;
    stream.set_write_timeout(Some(STEP))?;
    stream.set_read_timeout(Some(STEP))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    let mut block = [0; 4096];
    while answer.len() < ANSWER_MAX {
        if Instant::now() >= until {
            return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "no whole answer within 5 s"));
        }
        match stream.read(&mut block)? {
            0 => break,
            n => answer.extend_from_slice(&block[..n]),
        }
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn answering(answer: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut head = [0; 1024];
            let _ = stream.read(&mut head);
            let _ = stream.write_all(answer);
        });
        address
    }

    #[test]
    fn the_status_decides_and_the_body_is_the_reason() {
        assert_eq!(ask(answering(b"HTTP/1.1 200 OK\r\n\r\nlive\n"), "/live"), Ok("live".to_owned()));
        let refused = ask(answering(b"HTTP/1.1 503 Service Unavailable\r\n\r\nstarting\n"), "/ready");
        assert!(refused.is_err_and(|error| error.ends_with("/ready: 503 starting")));
        let other = ask(answering(b"220 mail.example.org ESMTP\r\n"), "/live");
        assert!(other.is_err_and(|error| error.contains("not HTTP")));
        assert!(ask(answering(b""), "/live").is_err());
    }

    #[test]
    fn nobody_listening_is_an_error_with_the_address() {
        let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
        let error = ask(SocketAddr::from(([0, 0, 0, 0], port)), "/live").expect_err("nobody listens");
        assert!(error.starts_with(&format!("http://127.0.0.1:{port}/live: ")), "{error}");
    }
}
