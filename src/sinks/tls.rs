//! Trust and client certificates of the `http` and `forward` sinks, from PEM files.
//!
//! Trusted are the certificates of `ca`, if it is set, and nothing else; otherwise the machine's own store, and where
//! that is empty (a scratch image), Mozilla's list as compiled in. Verification can not be switched off.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// The PEM files of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// Who is trusted.
    pub ca: Option<PathBuf>,
    /// The client's certificate, with the chain after it.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

/// Reads the files and makes a configuration of them; one that trusts nobody if it is not `used` (plain http), since
/// the machine's store takes time and memory. Errors name the file.
pub fn config(files: &Files, used: bool) -> io::Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| io::Error::other(format!("tls: {error}")))?
        .with_root_certificates(if used { roots(files.ca.as_deref())? } else { RootCertStore::empty() });
    match (&files.cert, &files.key) {
        (Some(cert), Some(key)) => {
            let chain = certificates(cert)?;
            let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| bad_pem(key, "a private key", &error))?;
            let refused = |error| io::Error::other(format!("{} with {}: {error}", cert.display(), key.display()));
            builder.with_client_auth_cert(chain, secret).map_err(refused)
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

fn roots(ca: Option<&Path>) -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca {
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
        }
        return Ok(roots);
    }
    let native = rustls_native_certs::load_native_certs();
    let (good, _bad) = roots.add_parsable_certificates(native.certs);
    if good == 0 {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    Ok(roots)
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.map_err(|error| bad_pem(path, "certificates", &error))?;
    if found.is_empty() {
        return Err(io::Error::other(format!(
            "{}: no certificate in it; expected PEM (BEGIN CERTIFICATE)",
            path.display()
        )));
    }
    Ok(found)
}

/// The error's own text is used for what went wrong with the file, never its content.
fn bad_pem(path: &Path, wanted: &str, error: &rustls::pki_types::pem::Error) -> io::Error {
    match error {
        rustls::pki_types::pem::Error::Io(error) => {
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        }
        _ => io::Error::other(format!("{}: expected {wanted} as PEM", path.display())),
    }
}
