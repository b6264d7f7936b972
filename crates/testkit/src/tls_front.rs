//! TLS in front of a server that speaks none: what comes in is decrypted and taken to it, and back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::certificates::Authority;

/// The front, whose certificate is for `127.0.0.1`. It ends with the runtime of its test.
pub struct TlsFront {
    pub port: u16,
    connections: Arc<AtomicUsize>,
}

impl TlsFront {
    /// Begins to listen on a port of its own.
    pub async fn of(target: SocketAddr, authority: &Authority) -> Self {
        let (certificate, key) = authority.issue(&format!("front-{}", target.port()), "IP:127.0.0.1", "2");
        let certificate = CertificateDer::from_pem_file(certificate).unwrap();
        let config = ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(vec![certificate], PrivateKeyDer::from_pem_file(key).unwrap()).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (acceptor, count) = (acceptor.clone(), Arc::clone(&count));
                tokio::spawn(async move {
                    let mut client = acceptor.accept(client).await.ok()?;
                    count.fetch_add(1, Ordering::Relaxed);
                    let mut server = TcpStream::connect(target).await.ok()?;
                    tokio::io::copy_bidirectional(&mut client, &mut server).await.ok()
                });
            }
        });
        Self { port, connections }
    }

    /// How many connections have come by TLS.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}
