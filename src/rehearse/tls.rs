//! The rehearsal's authority and certificate: made at start, in memory, gone with it.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::RehearseError;

/// What a rehearsal needs to speak TLS.
pub(super) struct Tls {
    /// Certificate of the authority, PEM.
    pub(super) ca_pem: String,
    /// The server's side.
    pub(super) server: Arc<ServerConfig>,
}

/// Makes an authority, and a certificate for `hosts` and for this machine.
pub(super) fn make(hosts: &[String]) -> Result<Tls, RehearseError> {
    make_with_rcgen(hosts).map_err(|error| RehearseError::Tls(error.to_string()))
}

fn make_with_rcgen(hosts: &[String]) -> Result<Tls, Box<dyn std::error::Error>> {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    authority.distinguished_name.push(DnType::CommonName, "bb rehearsal");
    let authority_key = KeyPair::generate()?;
    let certificate = authority.self_signed(&authority_key)?;
    let issuer = Issuer::new(authority, authority_key);

    let names = hosts.iter().cloned().chain(["localhost".to_owned(), "127.0.0.1".to_owned()]);
    let mut leaf = CertificateParams::new(names.collect::<Vec<_>>())?;
    leaf.distinguished_name.push(DnType::CommonName, "bb rehearsal server");
    leaf.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let leaf = leaf.signed_by(&key, &issuer)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));

    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)?;
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Tls { ca_pem: certificate.pem(), server: Arc::new(server) })
}
