//! The locks of those few parts that wake others up ([`Level`](crate::buffer), [`Budget`](crate::budget)). They take them
//! from here by `super::sync`, so that `loom_tests.rs` can put the same source on locks of which every order is tried.

pub use std::sync::{Condvar, Mutex, MutexGuard};

pub use tokio::sync::Semaphore;
