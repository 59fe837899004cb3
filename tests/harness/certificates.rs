//! Certificates made for a test, and TLS clients that trust them.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// A certificate authority of one test.
pub struct Authority {
    params: CertificateParams,
    key: KeyPair,
    pem: String,
}

/// A TLS connection of a client.
pub type Secure = StreamOwned<ClientConnection, TcpStream>;

impl Authority {
    /// A new one.
    pub fn new(name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("signed").pem();
        Authority { params, key, pem }
    }

    /// Its certificate.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Certificate and key for 127.0.0.1 that end so many days from now (or have).
    pub fn issue(&self, days: i64) -> (String, String) {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
        let now = SystemTime::now();
        let day = Duration::from_secs(86_400);
        let ends = if days < 0 { now - day * days.unsigned_abs() as u32 } else { now + day * days as u32 };
        params.not_before = (ends.min(now) - day * 5).into();
        params.not_after = ends.into();
        let key = KeyPair::generate().expect("a key");
        let issuer = Issuer::from_params(&self.params, &self.key);
        (params.signed_by(&key, &issuer).expect("signed").pem(), key.serialize_pem())
    }

    /// Writes these to `NAME.pem` and `NAME.key`.
    pub fn write_server(&self, dir: &Path, name: &str, days: i64) {
        let (certificate, key) = self.issue(days);
        fs::write(dir.join(format!("{name}.pem")), certificate).expect("written");
        fs::write(dir.join(format!("{name}.key")), key).expect("written");
    }
}

fn builder(authority: &Authority) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).expect("a certificate")).expect("a root");
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("TLS 1.2 and 1.3")
        .with_root_certificates(roots)
}

/// A client that trusts this authority and shows no certificate.
pub fn client_config(authority: &Authority) -> Arc<ClientConfig> {
    Arc::new(builder(authority).with_no_client_auth())
}

/// TLS over this connection. The handshake happens with the first bytes.
pub fn secure(stream: TcpStream, config: &Arc<ClientConfig>) -> Secure {
    let name = ServerName::try_from("127.0.0.1").expect("an address");
    StreamOwned::new(ClientConnection::new(Arc::clone(config), name).expect("a configuration"), stream)
}

/// The same with a certificate of `of`.
pub fn secure_as(stream: TcpStream, trusted: &Authority, of: &Authority) -> Secure {
    let (certificate, key) = of.issue(100);
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
    secure(stream, &Arc::new(builder(trusted).with_client_auth_cert(chain, key).expect("they fit")))
}
