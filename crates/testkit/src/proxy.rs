//! An HTTP proxy that is asked for names which need not resolve: it writes down what it was asked and takes everything to one address.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The proxy. It ends with the runtime of its test.
pub struct Proxy {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// Begins to listen on a port of its own; whatever it is asked for is taken to `target`.
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let noted = Arc::clone(&heads);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, target, Arc::clone(&noted)));
            }
        });
        Self { address, heads }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The head of the first request of each connection, lines and all.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }

    /// The first line of each of them.
    pub fn asked(&self) -> Vec<String> {
        self.heads().iter().filter_map(|head| Some(head.lines().next()?.to_owned())).collect()
    }
}

/// A tunnel for CONNECT. Of any other request the URL stays whole, as a proxy gets it: servers take that too (RFC 9112, section 3.2.2).
async fn serve(mut client: TcpStream, target: SocketAddr, heads: Arc<Mutex<Vec<String>>>) {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if client.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let is_tunnel = head.starts_with("CONNECT ");
    heads.lock().unwrap().push(head);
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    let begun =
        if is_tunnel { client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await } else { server.write_all(&bytes).await };
    if begun.is_ok() {
        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
    }
}
