//! What the connections of one input share.

use std::sync::Arc;

use tokio::sync::Notify;

use super::complaints::Complaints;
use super::held::Held;
use super::seats::Seats;
use super::settings::Settings;

/// Limits and what is counted against them, for all connections of one input.
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) held: Held,
    /// Why connections end.
    pub(super) complaints: Complaints,
    /// What was refused of connections that go on: apart from the others, which say more.
    pub(super) refusals: Complaints,
    pub(super) seats: Arc<Seats>,
    /// Tells the silent ones that the word to stop was said.
    pub(super) closing: Notify,
}
