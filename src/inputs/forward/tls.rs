//! TLS of a listener: certificates from PEM files, read again when the files change, and when they end.
//!
//! TLS 1.2 and 1.3. With `client_ca` a client has to show a certificate of it (mutual TLS). New files are taken for new
//! connections only when all of them fit together; until then the old ones stay, with a warning and a health check.
//! A certificate that ends within [`SOON`] is a warning of `/health`, and `/metrics` has the time.
//! Limits: the files are looked at once a second ([`super::door`]).

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use crate::codec::x509;

/// Time before the end of a certificate from which on it is said.
pub(super) const SOON: Duration = Duration::from_secs(14 * 86_400);

/// The PEM files of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Files {
    /// The listener's certificate, with the chain after it.
    pub(super) cert: PathBuf,
    /// Its key.
    pub(super) key: PathBuf,
    /// Whose certificates clients have to show.
    pub(super) client_ca: Option<PathBuf>,
}

/// What the files hold.
pub(super) struct Loaded {
    pub(super) config: Arc<ServerConfig>,
    /// Each file with certificates, and the first end among them in seconds since 1970.
    pub(super) ends: Vec<(PathBuf, i64)>,
}

/// What tells one version of a file from another: a secret that is replaced is mostly another file under the same
/// name, and one that is written in place has another time or size.
pub(super) type Stamp = Option<(u64, u64, i64, i64)>;

impl Files {
    fn all(&self) -> impl Iterator<Item = &Path> {
        [Some(&self.cert), Some(&self.key), self.client_ca.as_ref()].into_iter().flatten().map(PathBuf::as_path)
    }

    /// The versions of the files.
    pub(super) fn stamps(&self) -> Vec<Stamp> {
        self.all().map(stamp).collect()
    }

    /// Reads the files. Errors name the file and never what is in it.
    pub(super) fn load(&self) -> io::Result<Loaded> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chain = certificates(&self.cert)?;
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|error| bad(&self.key, "a private key", &error))?;
        let mut ends = vec![(self.cert.clone(), first_end(&chain))];
        let verifier = match &self.client_ca {
            None => WebPkiClientVerifier::no_client_auth(),
            Some(ca) => {
                let trusted = certificates(ca)?;
                ends.push((ca.clone(), first_end(&trusted)));
                let mut roots = RootCertStore::empty();
                for certificate in trusted {
                    roots.add(certificate).map_err(|error| wrong(ca, &error))?;
                }
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                    .build()
                    .map_err(|error| wrong(ca, &error))?
            }
        };
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| io::Error::other(format!("tls: {error}")))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(|error| {
                io::Error::other(format!("{} with {}: {error}", self.cert.display(), self.key.display()))
            })?;
        Ok(Loaded { config: Arc::new(config), ends })
    }
}

fn stamp(path: &Path) -> Stamp {
    let found = fs::metadata(path).ok()?;
    Some((found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
}

fn first_end(certificates: &[CertificateDer<'_>]) -> i64 {
    certificates.iter().filter_map(|certificate| x509::not_after(certificate)).min().unwrap_or(i64::MAX)
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(found) if found.is_empty() => Err(wrong(path, &"no certificate in it; expected PEM (BEGIN CERTIFICATE)")),
        Ok(found) => Ok(found),
        Err(error) => Err(bad(path, "certificates", &error)),
    }
}

fn bad(path: &Path, wanted: &str, error: &PemError) -> io::Error {
    match error {
        PemError::Io(error) => io::Error::new(error.kind(), format!("{}: {error}", path.display())),
        _ => wrong(path, &format!("expected {wanted} as PEM")),
    }
}

fn wrong(path: &Path, error: &dyn std::fmt::Display) -> io::Error {
    io::Error::other(format!("{}: {error}", path.display()))
}

/// What to say of a certificate that ends then, if anything.
pub(super) fn ending(ends: i64, now: i64) -> Option<String> {
    let left = ends.saturating_sub(now);
    match left {
        ..=0 => Some(format!("ended {} days ago; clients refuse it", left.unsigned_abs() / 86_400)),
        _ if left.unsigned_abs() <= SOON.as_secs() => Some(format!("ends in {} days", left / 86_400)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_near_its_end_is_said_and_another_is_not() {
        assert_eq!(ending(30 * 86_400, 0), None);
        assert_eq!(ending(i64::MAX, -1), None);
        assert_eq!(ending(3 * 86_400 + 5, 0).as_deref(), Some("ends in 3 days"));
        assert_eq!(ending(0, 2 * 86_400).as_deref(), Some("ended 2 days ago; clients refuse it"));
    }

    #[test]
    fn what_is_missing_or_no_certificate_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let files = Files { cert: path("c.pem"), key: path("k.pem"), client_ca: None };
        let error = |files: &Files| files.load().err().expect("an error").to_string();
        assert!(error(&files).contains("c.pem: No such file"), "{}", error(&files));
        fs::write(path("c.pem"), "a secret by mistake").expect("written");
        assert!(error(&files).ends_with("no certificate in it; expected PEM (BEGIN CERTIFICATE)"));
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = rcgen::CertificateParams::new(vec!["x".to_owned()]).expect("a name");
        fs::write(path("c.pem"), certificate.self_signed(&key).expect("signed").pem()).expect("written");
        fs::write(path("k.pem"), rcgen::KeyPair::generate().expect("a key").serialize_pem()).expect("written");
        assert!(error(&files).contains("c.pem with"), "the key of another: {}", error(&files));
        fs::write(path("k.pem"), key.serialize_pem()).expect("written");
        assert_eq!(files.load().expect("they fit").ends.len(), 1);
    }
}
