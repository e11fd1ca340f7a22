//! Hudsucker as it comes, as a peer for `cargo bench --bench peers`: it decrypts, passes on and does nothing else.
//!
//!     hudsucker PORT CA.crt CA.key UPSTREAM-CA.pem
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;

use hudsucker::Proxy;
use hudsucker::certificate_authority::RcgenAuthority;
use hudsucker::rcgen::{Issuer, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().collect();
    let provider = rustls::crypto::ring::default_provider();
    let key = KeyPair::from_pem(&std::fs::read_to_string(&args[3]).unwrap()).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&std::fs::read_to_string(&args[2]).unwrap(), key).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&args[4]).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(provider.clone().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let https =
        hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1().build();
    let proxy = Proxy::builder()
        .with_addr(SocketAddr::from(([127, 0, 0, 1], args[1].parse().unwrap())))
        .with_ca(RcgenAuthority::new(issuer, 1_000, provider))
        .with_http_connector(https)
        .build()
        .unwrap();
    proxy.start().await.unwrap();
}
