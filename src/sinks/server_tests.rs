//! A small HTTP/1.1 server on loopback for tests: plain threads and sockets, so that a test can answer with any bytes,
//! or with none.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// One request as it came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) line: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<Mutex<usize>>,
}

/// A status line, headers, and a body, put together.
pub(crate) fn answer(status: &str, headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

impl Server {
    /// Answers each request (its number, from 0, and itself) by what `reply` says; nothing means that the connection
    /// is closed.
    pub(crate) fn new(reply: impl Fn(usize, &Seen) -> Vec<u8> + Send + Sync + 'static) -> Server {
        Server::over(reply, |stream| Box::new(stream))
    }

    /// The same with something between socket and HTTP.
    pub(crate) fn over<W>(reply: impl Fn(usize, &Seen) -> Vec<u8> + Send + Sync + 'static, wrap: W) -> Server
    where
        W: Fn(TcpStream) -> Box<dyn ReadWrite> + Send + Sync + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (seen, connections) = (Arc::<Mutex<Vec<Seen>>>::default(), Arc::<Mutex<usize>>::default());
        let shared = (Arc::clone(&seen), Arc::clone(&connections), Arc::new(reply), Arc::new(wrap));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, connections, reply, wrap) = shared.clone();
                *connections.lock().expect("not poisoned") += 1;
                std::thread::spawn(move || serve(wrap(stream), &seen, &*reply));
            }
        });
        Server { address, seen, connections }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("not poisoned").clone()
    }

    pub(crate) fn connections(&self) -> usize {
        *self.connections.lock().expect("not poisoned")
    }
}

pub(crate) trait ReadWrite: Read + Write + Send {}
impl<T: Read + Write + Send> ReadWrite for T {}

fn serve(stream: Box<dyn ReadWrite>, seen: &Mutex<Vec<Seen>>, reply: &(dyn Fn(usize, &Seen) -> Vec<u8> + Send + Sync)) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream) {
        let number = {
            let mut seen = seen.lock().expect("not poisoned");
            seen.push(request.clone());
            seen.len() - 1
        };
        let answer = reply(number, &request);
        if answer.is_empty() || stream.get_mut().write_all(&answer).and_then(|()| stream.get_mut().flush()).is_err() {
            return;
        }
    }
}

fn read(stream: &mut impl BufRead) -> Option<Seen> {
    let mut seen = Seen::default();
    stream.read_line(&mut seen.line).ok().filter(|bytes| *bytes > 0)?;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        seen.headers.push((name.to_owned(), value.to_owned()));
    }
    let length = seen.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    seen.body = vec![0; length];
    stream.read_exact(&mut seen.body).ok()?;
    Some(seen)
}
