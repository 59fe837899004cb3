//! What the service manager (systemd) is told: ready, reloading, stopping, and that the node still lives.
//!
//! Does nothing where nobody asked: without `NOTIFY_SOCKET` no message is sent, without `WATCHDOG_USEC` no sign of life.
//! A message that can not be sent is no reason to stop; it is said once. Source: sd_notify(3), sd_watchdog_enabled(3).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;

static SAID: AtomicBool = AtomicBool::new(false);

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states)
        && !SAID.swap(true, Ordering::Relaxed)
    {
        tracing::warn!(%error, "the service manager can not be told how longshore is");
    }
}

/// Everything is started.
pub fn ready() {
    tell(&[NotifyState::Ready, NotifyState::Status("running")]);
}

/// SIGHUP was taken; [`ready`] follows.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// The word to stop was said.
pub fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("delivering what was read")]);
}

/// How often [`alive`] has to be called, if the service manager watches: half of what it allows.
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

/// The node lives. To be called only while that is true: its absence is what has the program restarted.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}
