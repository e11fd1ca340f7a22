//! The certificate authority of one bottle, and the leaf certificates that it makes as names come up.
//!
//! P-256 throughout. The CA's key never enters the bottle: it lies in keeper and controller. Leaves have one key of
//! their own per process, distinct from the CA's. One [`ServerConfig`] lives as long as the bottle, with tickets, so
//! that clients resume.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::ToSpan;
use jiff::tz::TimeZone;
use moka::sync::Cache;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::name::Host;

/// Leaves kept; more are made again.
pub(super) const LEAVES: u64 = 1024;
/// How long a leaf is given out. It is valid much longer.
const LEAF_AGE: Duration = Duration::from_secs(24 * 3600);
/// Days that a leaf is valid.
const LEAF_DAYS: i64 = 60;
/// Days that a certificate is valid before it is made, since a bottle's clock, or one by which its client was built, may run late.
const BACKDATED: i64 = 2;
/// Days that the authority is valid: longer than any bottle lives.
const CA_DAYS: i64 = 2 * 365;

/// What can go wrong with certificates.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// Making or reading a certificate or key failed.
    #[error("the bottle's certificate authority: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The TLS library did not take what was made.
    #[error("the bottle's TLS set-up: {0}")]
    Tls(#[from] rustls::Error),
    /// The PEM text holds no certificate.
    #[error("the bottle's certificate authority: no certificate in the PEM text")]
    Pem,
    /// The date is out of range.
    #[error("the host's date cannot be used in a certificate")]
    Date,
}

/// The authority of one bottle: certificate and key, as text.
#[derive(Clone)]
pub struct Ca {
    cert: String,
    key: SecretString,
}

impl Ca {
    /// Makes a new authority for the bottle `slug`.
    pub fn generate(slug: &str) -> Result<Ca, CaError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "bb");
        params.distinguished_name.push(DnType::CommonName, format!("bb bottle {slug}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_validity(&mut params, CA_DAYS)?;
        let cert = params.self_signed(&key)?.pem();
        let text = Zeroizing::new(key.serialize_pem());
        Ok(Ca { cert, key: SecretString::from(text.as_str()) })
    }

    /// Takes up an authority from its PEM texts. The key is checked to be one.
    pub fn from_pem(cert: &str, key: &SecretString) -> Result<Ca, CaError> {
        let ca = Ca { cert: cert.to_owned(), key: key.clone() };
        ca.issuer()?;
        Ok(ca)
    }

    /// Gets the certificate: what the bottle trusts.
    pub fn cert_pem(&self) -> &str {
        &self.cert
    }

    /// Gets the key: for the keeper only.
    pub fn key_pem(&self) -> SecretString {
        self.key.clone()
    }

    fn issuer(&self) -> Result<Issuer<'static, KeyPair>, CaError> {
        let key = KeyPair::from_pem(self.key.expose_secret())?;
        Ok(Issuer::from_ca_cert_pem(&self.cert, key)?)
    }

    /// Makes the TLS set-up of the bottle's side: ALPN `h2, http/1.1`, tickets, leaves as names come up.
    pub fn acceptor(&self) -> Result<Acceptor, CaError> {
        let minter = Arc::new(Minter::new(self)?);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&minter) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // Tickets do the resuming; a store beside them would only cost memory.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.ticketer = rustls::crypto::ring::Ticketer::new()?;
        Ok(Acceptor { config: Arc::new(config), minter })
    }
}

/// The TLS set-up of one bottle's side.
pub struct Acceptor {
    config: Arc<ServerConfig>,
    minter: Arc<Minter>,
}

impl Acceptor {
    /// Gets the set-up for a connection with a server name.
    pub fn named(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// Tells whether the certificate of a name is there: none has to be made for it.
    pub fn has(&self, host: &Host) -> bool {
        self.minter.leaves.contains_key(host)
    }

    /// Gets the set-up for a connection without one: its certificate is for the address that it meant, so that the
    /// refusal can be read.
    pub fn literal(&self, address: IpAddr) -> Option<Arc<ServerConfig>> {
        let leaf = self.minter.leaf(&Host::Ip(address))?;
        let mut config = ServerConfig::clone(&self.config);
        config.cert_resolver = Arc::new(Fixed(leaf));
        Some(Arc::new(config))
    }
}

#[derive(Debug)]
struct Fixed(Arc<CertifiedKey>);

impl ResolvesServerCert for Fixed {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// Makes leaves and remembers them by name.
struct Minter {
    issuer: Issuer<'static, KeyPair>,
    authority: CertificateDer<'static>,
    key: KeyPair,
    signer: Arc<dyn rustls::sign::SigningKey>,
    leaves: Cache<Host, Arc<CertifiedKey>>,
}

impl std::fmt::Debug for Minter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Minter").field("leaves", &self.leaves.entry_count()).finish_non_exhaustive()
    }
}

impl Minter {
    fn new(ca: &Ca) -> Result<Minter, CaError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(Minter {
            issuer: ca.issuer()?,
            authority: CertificateDer::from_pem_slice(ca.cert.as_bytes()).map_err(|_| CaError::Pem)?,
            signer: rustls::crypto::ring::sign::any_ecdsa_type(&der)?,
            key,
            leaves: Cache::builder().max_capacity(LEAVES).time_to_live(LEAF_AGE).build(),
        })
    }

    /// Gets the leaf for `host`, from the cache or made now (about 50 us).
    fn leaf(&self, host: &Host) -> Option<Arc<CertifiedKey>> {
        if let Some(leaf) = self.leaves.get(host) {
            return Some(leaf);
        }
        match self.mint(host) {
            Ok(leaf) => {
                let leaf = Arc::new(leaf);
                self.leaves.insert(host.clone(), Arc::clone(&leaf));
                Some(leaf)
            }
            Err(error) => {
                tracing::warn!(%error, "no certificate could be made");
                None
            }
        }
    }

    fn mint(&self, host: &Host) -> Result<CertifiedKey, CaError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let text = host.to_string();
        // X.520 bounds a common name to 64 characters; the name that counts is the alternative name.
        params.distinguished_name.push(DnType::CommonName, if text.len() <= 64 { text.as_str() } else { "bb" });
        params.subject_alt_names = vec![match host {
            Host::Name(name) => SanType::DnsName(name.to_string().try_into()?),
            Host::Ip(ip) => SanType::IpAddress(*ip),
        }];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        // By default it is made from the key, which all leaves share; some clients refuse a number seen before.
        params.serial_number = Some(SerialNumber::from_slice(uuid::Uuid::now_v7().as_bytes()));
        set_validity(&mut params, LEAF_DAYS)?;
        let leaf = params.signed_by(&self.key, &self.issuer)?;
        Ok(CertifiedKey::new(vec![leaf.der().clone(), self.authority.clone()], Arc::clone(&self.signer)))
    }
}

impl ResolvesServerCert for Minter {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.leaf(&Host::parse(hello.server_name()?).ok()?)
    }
}

/// Sets the dates: from [`BACKDATED`] days ago (clocks in images run late), for `days`.
fn set_validity(params: &mut CertificateParams, days: i64) -> Result<(), CaError> {
    let today = jiff::Timestamp::now().to_zoned(TimeZone::UTC).date();
    let date = |offset: i64| {
        let date = today.checked_add(offset.days()).map_err(|_| CaError::Date)?;
        // jiff's months and days are 1 to 12 and 1 to 31.
        Ok::<_, CaError>(rcgen::date_time_ymd(
            date.year().into(),
            date.month().unsigned_abs(),
            date.day().unsigned_abs(),
        ))
    };
    params.not_before = date(-BACKDATED)?;
    params.not_after = date(days)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::ServerName;
    use rustls::{ClientConnection, RootCertStore, ServerConnection};

    use super::*;

    fn client(ca: &Ca, name: &'static str) -> ClientConnection {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.cert_pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        ClientConnection::new(Arc::new(config), ServerName::try_from(name).unwrap()).unwrap()
    }

    /// A clock that is off by some days.
    #[derive(Debug)]
    struct Skewed(i64);

    impl rustls::time_provider::TimeProvider for Skewed {
        fn current_time(&self) -> Option<rustls::pki_types::UnixTime> {
            let now = rustls::pki_types::UnixTime::now().as_secs().checked_add_signed(self.0 * 24 * 3600)?;
            Some(rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_secs(now)))
        }
    }

    #[test]
    fn a_client_whose_clock_runs_late_or_early_accepts_authority_and_leaf() {
        let ca = Ca::generate("test-1").unwrap();
        let acceptor = ca.acceptor().unwrap();
        let at = |days: i64| {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(ca.cert_pem().as_bytes()).unwrap()).unwrap();
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config = rustls::ClientConfig::builder_with_details(provider, Arc::new(Skewed(days)))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
            let name = ServerName::try_from("a.example").unwrap();
            handshake(ClientConnection::new(Arc::new(config), name).unwrap(), acceptor.named())
        };
        // Dates are whole days, so at least one less than what is given.
        for days in [-(BACKDATED - 1), 0, 1, LEAF_DAYS - 2] {
            at(days).unwrap_or_else(|error| panic!("{days} days: {error}"));
        }
        for days in [-(BACKDATED + 1), LEAF_DAYS + 1] {
            assert!(at(days).unwrap_err().contains("certificate"), "{days} days");
        }
    }

    #[test]
    fn the_authority_is_backdated_as_its_leaves_are_and_outlives_them() {
        let day = || jiff::Timestamp::now().to_zoned(TimeZone::UTC).date().checked_add((-BACKDATED).days()).unwrap();
        let before = day();
        let ca = Ca::generate("test-1").unwrap();
        let dates = |params: &CertificateParams| (params.not_before, params.not_after);
        let (mut authority, mut leaf) = (CertificateParams::default(), CertificateParams::default());
        set_validity(&mut authority, CA_DAYS).unwrap();
        set_validity(&mut leaf, LEAF_DAYS).unwrap();
        assert_eq!(dates(&authority).0, dates(&leaf).0);
        assert!(dates(&authority).1 > dates(&leaf).1);
        // OpenSSL, which reads the real one, says the same.
        let pem = ca.cert_pem().as_bytes().to_vec();
        let Ok(mut openssl) = std::process::Command::new("openssl")
            .args(["x509", "-noout", "-startdate"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
        else {
            return;
        };
        std::io::Write::write_all(&mut openssl.stdin.take().unwrap(), &pem).unwrap();
        let said = String::from_utf8(openssl.wait_with_output().unwrap().stdout).unwrap();
        // It may be midnight.
        let named = |day: jiff::civil::Date| {
            said.contains(&format!(" {} GMT", day.year())) && said.contains(&format!("{:>2} 00:00:00", day.day()))
        };
        assert!(named(before) || named(day()), "{said}");
    }

    fn handshake(mut client: ClientConnection, config: Arc<ServerConfig>) -> Result<ClientConnection, String> {
        let mut server = ServerConnection::new(config).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            let mut wire = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut wire).unwrap();
            }
            let mut rest = wire.as_slice();
            while !rest.is_empty() {
                server.read_tls(&mut rest).unwrap();
                server.process_new_packets().map_err(|e| e.to_string())?;
            }
            let mut wire = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut wire).unwrap();
            }
            let mut rest = wire.as_slice();
            while !rest.is_empty() {
                client.read_tls(&mut rest).unwrap();
                client.process_new_packets().map_err(|e| e.to_string())?;
            }
        }
        Ok(client)
    }

    #[test]
    fn a_client_that_trusts_the_authority_accepts_the_leaf_of_any_name() {
        let ca = Ca::generate("test-1").unwrap();
        let acceptor = ca.acceptor().unwrap();
        for name in ["api.anthropic.com", "a_b.example", "xn--bcher-kva.example"] {
            let client = handshake(client(&ca, name), acceptor.named()).unwrap();
            assert_eq!(client.peer_certificates().unwrap().len(), 2, "leaf and authority");
        }
    }

    #[test]
    fn so_many_leaves_are_kept_and_the_others_are_made_again() {
        let minter = Ca::generate("test-1").unwrap().acceptor().unwrap().minter;
        let host = |n: u64| Host::parse(&format!("n{n}.example")).unwrap();
        for n in 0..LEAVES + 50 {
            assert!(minter.leaf(&host(n)).is_some());
        }
        minter.leaves.run_pending_tasks();
        assert_eq!(minter.leaves.entry_count(), LEAVES);
        assert!((0..LEAVES + 50).all(|n| minter.leaf(&host(n)).is_some()));
    }

    #[test]
    fn an_address_gets_a_certificate_of_its_own() {
        let ca = Ca::generate("test-1").unwrap();
        let acceptor = ca.acceptor().unwrap();
        let config = acceptor.literal("1.1.1.1".parse().unwrap()).unwrap();
        handshake(client(&ca, "1.1.1.1"), config).unwrap();
        let config = acceptor.literal("1.1.1.1".parse().unwrap()).unwrap();
        assert!(handshake(client(&ca, "1.0.0.1"), config).is_err());
    }

    #[test]
    fn an_authority_taken_up_again_makes_leaves_that_still_fit() {
        let ca = Ca::generate("test-1").unwrap();
        let again = Ca::from_pem(ca.cert_pem(), &ca.key_pem()).unwrap();
        handshake(client(&ca, "example.com"), again.acceptor().unwrap().named()).unwrap();
    }

    #[test]
    fn another_bottles_authority_is_not_trusted() {
        let (ours, theirs) = (Ca::generate("a").unwrap(), Ca::generate("b").unwrap());
        assert!(handshake(client(&ours, "example.com"), theirs.acceptor().unwrap().named()).is_err());
    }

    #[test]
    fn the_leafs_key_is_not_the_authoritys() {
        let ca = Ca::generate("test-1").unwrap();
        let minter = Minter::new(&ca).unwrap();
        assert_ne!(minter.key.serialize_der(), minter.issuer.key().serialize_der());
        let one = minter.leaf(&Host::parse("a.example").unwrap()).unwrap();
        let two = minter.leaf(&Host::parse("a.example").unwrap()).unwrap();
        assert!(Arc::ptr_eq(&one, &two), "made once");
    }

    #[test]
    fn the_key_is_never_printed() {
        let ca = Ca::generate("test-1").unwrap();
        assert!(!format!("{:?}", ca.key_pem()).contains("PRIVATE"));
    }
}
