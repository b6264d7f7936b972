//! TLS to the broker: whose certificate is believed, which one we show, and what to do where the two sides do not agree.

use std::io;

use lapin::tcp::{RustlsConnector, RustlsConnectorConfig};
use rustls::{AlertDescription, CertificateError, Error};

use crate::config::amqp::Tls;

/// A CA file that is given is believed alone: nobody else's certificate passes for the broker's, whoever the system trusts.
pub(super) fn connector(tls: &Tls) -> io::Result<RustlsConnector> {
    let roots = match &tls.ca {
        Some(certificates) => RustlsConnectorConfig::default().with_parsable_certificates(certificates.clone()),
        None => RustlsConnectorConfig::new_with_native_certs()?,
    };
    match &tls.client {
        Some(client) => roots.connector_with_single_cert(client.certificates.clone(), client.key.clone_key()),
        None => roots.connector_with_no_client_auth(),
    }
}

/// What TLS did not agree on, and what to do; `None` where it is nothing that somebody must fix.
#[expect(clippy::wildcard_enum_match_arm, reason = "the library's own errors: all but these are the network's")]
pub(super) fn disagreement(error: &io::Error) -> Option<String> {
    let first = error.get_ref().map(|error| error as &(dyn std::error::Error + 'static));
    let mut causes = std::iter::successors(first, |&error| error.source());
    let error = causes.find_map(|cause| cause.downcast_ref::<Error>())?;
    let cure = match error {
        Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature | CertificateError::InvalidPurpose,
        ) => {
            "the broker's certificate comes from no CA that is believed: set amqp.ca_file to the file of the CA that issued it"
        }
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => {
            "write in amqp.url the host that the broker's certificate names, or give the broker a certificate for this one"
        }
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "renew the broker's certificate; or this machine's clock is wrong"
        }
        Error::InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => {
            "this machine's clock is wrong, or the broker's certificate is for later"
        }
        Error::InvalidCertificate(_) => "give the broker a certificate that can be believed",
        Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "the broker wants a certificate of its clients: set amqp.client_cert_file and amqp.client_key_file to one from a CA that its ssl_options.cacertfile has"
        }
        Error::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::AccessDenied,
        ) => {
            "the broker does not take the certificate of amqp.client_cert_file: renew it, from a CA that the broker's ssl_options.cacertfile has"
        }
        // TLS 1.2 has no word of its own for a certificate that is missing.
        Error::AlertReceived(AlertDescription::HandshakeFailure) => {
            "the broker wants a certificate of its clients, or has no cipher in common with us: set amqp.client_cert_file and amqp.client_key_file; where they are set, let its ssl_options.ciphers have those of TLS 1.2 with ECDHE or of TLS 1.3"
        }
        Error::AlertReceived(AlertDescription::ProtocolVersion) => "let the broker speak TLS 1.2 or 1.3",
        Error::InvalidMessage(_) => {
            "what answers there speaks no TLS: write in amqp.url the port of the broker's TLS listener (5671 as a rule), or amqp:// where it has none"
        }
        _ => return None,
    };
    Some(format!("TLS: {error}; {cure}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_handshake_is_not_blamed_on_a_missing_certificate_alone() {
        let said = |alert| disagreement(&io::Error::other(Error::AlertReceived(alert))).unwrap();
        let either = said(AlertDescription::HandshakeFailure);
        assert!(either.contains("amqp.client_cert_file") && either.contains("no cipher in common"), "{either}");
        let missing = said(AlertDescription::CertificateRequired);
        assert!(missing.contains("amqp.client_cert_file") && !missing.contains("cipher"), "{missing}");
    }

    /// The library for such files is not built in: `patches/README.md`.
    #[tokio::test]
    async fn a_client_certificate_in_a_pkcs12_file_is_refused_in_words() {
        use lapin::tcp::{AsyncTcpStream, Identity, TLSConfig};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let runtime = lapin::runtime::default_runtime().unwrap();
        let plain = AsyncTcpStream::connect(&runtime, vec![listener.local_addr().unwrap()]).await.unwrap();
        let identity = Some(Identity::PKCS12 { der: &[0x30], password: "x" });
        let refused = plain.into_tls("localhost", TLSConfig { identity, cert_chain: None }).await.err().unwrap();
        assert!(refused.to_string().contains("PKCS#12 file is not supported"), "{refused}");
    }
}
