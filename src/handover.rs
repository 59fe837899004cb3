//! Handing the listening sockets of a running longshore to the next one (`longshore run --take-over`).
//!
//! ```text
//! next -> <data_dir>/handover.sock     connects
//! running -> next                      one message: the sockets (SCM_RIGHTS), and their number as a byte
//! next -> running                      one byte: taken. Without it nothing has changed.
//! ```
//!
//! Then the running one stops as on SIGTERM: it writes its acks and its checkpoints and lets go of the data folder, for
//! which the next one waits. Connections that come meanwhile wait in the sockets' own queues; none is refused or reset.
//! Only the owner of the data folder (0700) can ask. Limits: [`PATIENCE`] for each step, one taker at a time.

use std::fs;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

use crate::inputs::follow::checkpoint::Checkpoints;
use crate::inputs::inherited::{self, SOCKETS_MAX};
use crate::workers::Stop;

/// How long one step may take.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(20);
const TAKEN: u8 = b'!';

fn place(data_dir: &Path) -> PathBuf {
    data_dir.join("handover.sock")
}

/// Offers our sockets until one took them; then says `handed`. The lock on the folder has to be held.
///
/// # Errors
/// The socket can not be made, for example because the folder's name is too long for one.
pub fn offer(data_dir: &Path, runtime: &tokio::runtime::Handle, handed: Stop) -> io::Result<()> {
    let path = place(data_dir);
    // Ours to remove: whoever listened there had the lock before us.
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    let listener = {
        let _inside = runtime.enter();
        tokio::net::UnixListener::from_std(listener)?
    };
    runtime.spawn(async move {
        loop {
            let given = match listener.accept().await.and_then(|(taker, _)| taker.into_std()) {
                Ok(taker) => tokio::task::spawn_blocking(move || give(&taker)).await,
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    continue;
                }
            };
            match given {
                Ok(Ok(count)) => {
                    tracing::info!(sockets = count, "another longshore took our listening sockets");
                    inherited::handed_over();
                    // Before the next one makes its own.
                    let _ = fs::remove_file(&path);
                    handed.set();
                    return;
                }
                Ok(Err(error)) => tracing::warn!(%error, "a hand-over did not come to its end; this longshore goes on"),
                Err(_) => return,
            }
        }
    });
    Ok(())
}

fn give(mut taker: &UnixStream) -> io::Result<usize> {
    taker.set_nonblocking(false)?;
    taker.set_read_timeout(Some(PATIENCE))?;
    taker.set_write_timeout(Some(PATIENCE))?;
    let sockets = inherited::copies();
    let borrowed: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return Err(io::Error::other("too many sockets for one message"));
    }
    // At most `SOCKETS_MAX`, which fits a byte.
    let count = u8::try_from(borrowed.len()).map_err(io::Error::other)?;
    sendmsg(taker, &[IoSlice::new(&[count])], &mut control, SendFlags::NOSIGNAL)?;
    let mut answer = [0];
    taker.read_exact(&mut answer)?;
    match answer[0] {
        TAKEN => Ok(borrowed.len()),
        other => Err(io::Error::other(format!("expected the byte {TAKEN}, got {other}"))),
    }
}

/// Takes the running longshore's sockets, and waits for its end: until it lets go of the data folder.
///
/// # Errors
/// It does not answer as it should; then it goes on.
pub fn take_over(data_dir: &Path, patience: Duration) -> io::Result<()> {
    match take(data_dir).map_err(|error| io::Error::new(error.kind(), format!("--take-over: {error}")))? {
        Some(sockets) => {
            tracing::info!(sockets, "took over listening sockets; waiting for the end of the longshore before");
        }
        None => tracing::info!("--take-over: no longshore runs with this data folder; nothing to take"),
    }
    let deadline = Instant::now() + patience;
    while Checkpoints::is_locked(data_dir) && Instant::now() < deadline {
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// Binds; `patient`: while the process before is about to end, tries again for a moment.
///
/// # Errors
/// Those of the system.
pub fn bind(address: SocketAddr, patient: bool) -> io::Result<TcpListener> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match TcpListener::bind(address) {
            Err(error) if patient && error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(LOOK);
            }
            other => return other,
        }
    }
}

/// The sockets of the longshore that works in this folder; how many. `None` if there is none.
fn take(data_dir: &Path) -> io::Result<Option<usize>> {
    let mut giver = match UnixStream::connect(place(data_dir)) {
        Ok(giver) => giver,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    giver.set_read_timeout(Some(PATIENCE))?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut count = [0];
    let got = recvmsg(&giver, &mut [IoSliceMut::new(&mut count)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut sockets: Vec<OwnedFd> = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            sockets.extend(received);
        }
    }
    if got.bytes != 1 || sockets.len() != usize::from(count[0]) {
        return Err(io::Error::other("the running longshore did not give its sockets"));
    }
    let taken = sockets.len();
    inherited::receive(sockets);
    giver.write_all(&[TAKEN])?;
    Ok(Some(taken))
}
