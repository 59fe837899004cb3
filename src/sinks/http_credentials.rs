//! Credentials of an `http` sink whose secrets stand in files: read again when the files change, so that a token can be
//! replaced without a restart.
//!
//! Files are looked at when a request is sent, at most once in [`LOOK`]. One that can not be read, is empty, or holds what
//! no header may hold leaves the credential as it is, with one warning until it is fine again.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use crate::settings::Secret;

/// Between two looks at the files.
const LOOK: Duration = Duration::from_secs(1);

/// How a secret becomes the value of a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// As it is.
    Plain,
    /// `Bearer SECRET`.
    Bearer,
    /// `Basic` with this user.
    Basic(String),
}

/// A header that holds a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// Which one.
    pub header: HeaderName,
    /// How it is written.
    pub form: Form,
    /// What is in it.
    pub secret: Secret,
}

impl Credential {
    /// The header's value, which hyper and its logs treat as a secret.
    ///
    /// # Errors
    /// The secret holds what no header may hold.
    pub fn value(&self) -> Result<HeaderValue, String> {
        let text = match &self.form {
            Form::Plain => self.secret.expose().to_owned(),
            Form::Bearer => format!("Bearer {}", self.secret.expose()),
            Form::Basic(user) => format!("Basic {}", self.login(user)),
        };
        let mut value =
            HeaderValue::try_from(text).map_err(|_| "it holds a line break or control character".to_owned())?;
        value.set_sensitive(true);
        Ok(value)
    }

    fn login(&self, user: &str) -> String {
        STANDARD.encode(format!("{user}:{}", self.secret.expose()))
    }

    /// Texts that must never be shown.
    fn hidden(&self) -> Vec<String> {
        let mut texts = vec![self.secret.expose().to_owned()];
        if let Form::Basic(user) = &self.form {
            texts.push(self.login(user));
        }
        texts.retain(|text| !text.is_empty());
        texts
    }
}

/// All credentials of a sink, as they are now.
#[derive(Debug)]
pub struct Credentials {
    all: Vec<Credential>,
    looked: Instant,
    in_trouble: bool,
}

impl Credentials {
    /// Those of the configuration.
    pub fn new(all: Vec<Credential>) -> Credentials {
        Credentials { all, looked: Instant::now(), in_trouble: false }
    }

    /// Takes what changed into `headers`. `place` is for the log.
    pub fn refresh(&mut self, headers: &mut HeaderMap, place: &str) {
        if self.all.is_empty() || self.looked.elapsed() < LOOK {
            return;
        }
        self.looked = Instant::now();
        match self.read_again(headers) {
            Ok(changed) => {
                if changed > 0 {
                    tracing::info!(to = place, "new credentials are in use");
                } else if self.in_trouble {
                    tracing::info!(to = place, "credentials are fine again");
                }
                self.in_trouble = false;
            }
            Err(trouble) if !self.in_trouble => {
                self.in_trouble = true;
                tracing::warn!(to = place, "{trouble}; what was read before stays in use");
            }
            Err(_) => (),
        }
    }

    fn read_again(&mut self, headers: &mut HeaderMap) -> Result<usize, String> {
        let mut changed = 0;
        for credential in &mut self.all {
            let fresh = Credential {
                secret: credential.secret.read_again().map_err(|error| error.to_string())?,
                ..credential.clone()
            };
            if fresh != *credential {
                let value = fresh.value().map_err(|what| format!("the secret of `{}`: {what}", fresh.header))?;
                headers.insert(fresh.header.clone(), value);
                *credential = fresh;
                changed += 1;
            }
        }
        Ok(changed)
    }

    /// Texts that must never be shown, should an answer repeat them.
    pub fn hidden(&self) -> Vec<String> {
        self.all.iter().flat_map(Credential::hidden).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_basic_login_hides_the_password_and_what_is_sent_of_it() {
        let credential = Credential {
            header: HeaderName::from_static("authorization"),
            form: Form::Basic("me".to_owned()),
            secret: Secret::new("pass".to_owned()),
        };
        assert_eq!(credential.value().expect("a value"), "Basic bWU6cGFzcw==");
        assert_eq!(credential.hidden(), ["pass", "bWU6cGFzcw=="]);
        assert!(!format!("{credential:?} {:?}", credential.value()).contains("pass"));
    }
}
