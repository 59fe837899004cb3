//! The door of one listener: its rules and its TLS, as their files say at this moment.
//!
//! A task looks at the files once in [`LOOK`]. What changed and fits is taken for new connections; what does not stays
//! as it was, is said once, and is a warning of `/health` until it fits. Connections that are open stay open.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::ServerConfig;

use crate::inputs::Outlet;
use crate::metrics::Health;
use crate::record::Timestamp;

use super::listen::Listen;
use super::rules::Rules;
use super::tls::{self, Files, Stamp};

/// Time between two looks at the files.
const LOOK: Duration = Duration::from_secs(1);

/// What a new connection meets.
pub(super) struct Door {
    name: String,
    rules: RwLock<Arc<Rules>>,
    tls: Option<Tls>,
}

struct Tls {
    files: Files,
    now: RwLock<Now>,
}

/// What was loaded last.
struct Now {
    config: Arc<ServerConfig>,
    stamps: Vec<Stamp>,
    ends: Vec<(std::path::PathBuf, i64)>,
}

impl Door {
    /// Reads the files.
    ///
    /// # Errors
    /// The file that is missing or wrong.
    pub(super) fn open(listen: &Listen) -> io::Result<Door> {
        let tls = match &listen.tls {
            None => None,
            Some(files) => {
                // Before the files are read: one that changes meanwhile is read again.
                let stamps = files.stamps();
                let loaded = files.load()?;
                let now = RwLock::new(Now { config: loaded.config, stamps, ends: loaded.ends });
                Some(Tls { files: files.clone(), now })
            }
        };
        Ok(Door { name: listen.address.to_string(), rules: RwLock::new(Arc::new(listen.rules.clone())), tls })
    }

    /// The rules as they are now.
    pub(super) fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The TLS configuration as it is now; `None` for a listener without.
    pub(super) fn tls(&self) -> Option<Arc<ServerConfig>> {
        let tls = self.tls.as_ref()?;
        Some(Arc::clone(&tls.now.read().unwrap_or_else(PoisonError::into_inner).config))
    }

    /// Looks after the files until the word to stop.
    pub(super) async fn watch(self: Arc<Self>, outlet: Outlet) {
        if self.tls.is_none() && !self.rules().has_secrets() {
            return;
        }
        let (metrics, stop, input) = (Arc::clone(&outlet.metrics), outlet.stop.clone(), outlet.counters().name.clone());
        // The queues of the sinks end when the last outlet is gone.
        drop(outlet);
        let check = format!("input.{input}.{}", self.name);
        let mut said = String::new();
        loop {
            let door = Arc::clone(&self);
            // A file on a dead disk must not hold up the runtime.
            let looked = tokio::task::spawn_blocking(move || door.look()).await;
            let trouble = match looked {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(format!("{error}; what was read before stays in use")),
                Err(_) => Some("looking at its files failed".to_owned()),
            };
            let mut warnings: Vec<String> = trouble.into_iter().collect();
            let now = Timestamp::now().0 / 1_000_000_000;
            for (file, ends) in self.ends() {
                let file = file.display().to_string();
                metrics.certificate(&input, &file, ends);
                warnings.extend(tls::ending(ends, now).map(|what| format!("the certificate in {file} {what}")));
            }
            let text = warnings.join("; ");
            if text != said {
                match text.is_empty() {
                    true => tracing::info!(listener = self.name, "certificates and keys are fine again"),
                    false => tracing::warn!(listener = self.name, "{text}"),
                }
            }
            let health = if text.is_empty() { Health::Pass } else { Health::Warn };
            metrics.check(&check, health, text.clone());
            said = text;
            tokio::select! {
                () = tokio::time::sleep(LOOK) => (),
                () = stop.wait() => {
                    // What comes next may have other files.
                    metrics.uncheck(&check);
                    metrics.forget_certificates(&input);
                    return;
                }
            }
        }
    }

    fn ends(&self) -> Vec<(std::path::PathBuf, i64)> {
        let now = self.tls.as_ref().map(|tls| tls.now.read().unwrap_or_else(PoisonError::into_inner).ends.clone());
        now.unwrap_or_default()
    }

    /// Takes what changed. Both are tried; the first trouble is told.
    fn look(&self) -> io::Result<()> {
        let tls = self.look_at_tls();
        let rules = self.rules().read_again();
        if let Ok(fresh) = &rules
            && *fresh != *self.rules()
        {
            *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(fresh.clone());
            tracing::info!(listener = self.name, "new shared keys or passwords are in use");
        }
        tls.and(rules.map(|_| ()))
    }

    fn look_at_tls(&self) -> io::Result<()> {
        let Some(tls) = &self.tls else { return Ok(()) };
        let stamps = tls.files.stamps();
        if stamps == tls.now.read().unwrap_or_else(PoisonError::into_inner).stamps {
            return Ok(());
        }
        let loaded = tls.files.load()?;
        *tls.now.write().unwrap_or_else(PoisonError::into_inner) =
            Now { config: loaded.config, stamps, ends: loaded.ends };
        tracing::info!(listener = self.name, "new certificates are in use");
        Ok(())
    }
}
