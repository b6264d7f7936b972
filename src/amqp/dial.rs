//! Opening a connection so that a failed try leaves nothing behind. lapin's own way leaves a task for each socket that could not be opened,
//! and a thread for each broker that takes the socket and says nothing: the socket is opened here, and cut where no connection comes of it.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lapin::tcp::AsyncTcpStream;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Connection, ConnectionProperties};

use super::error::ANSWER;
use super::tls;
use crate::config::amqp::Tls;
use crate::dial::first_of;

/// How long any address may take to open a socket.
const LONGEST: Duration = Duration::from_secs(3);

/// Another handle to a socket, which is cut unless it is kept. lapin's thread reads its end then, and ends.
struct Cut(Option<TcpStream>);

impl Cut {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        if let Some(socket) = &self.0 {
            // It may be closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// How long one of so many addresses may take to open a socket: a host that drops what it is sent leaves time for those after it, and
/// for the handshake.
pub(super) fn patience(addresses: usize) -> Duration {
    let parts = u32::try_from(addresses).unwrap_or(u32::MAX).saturating_add(1);
    (ANSWER / parts).min(LONGEST)
}

/// Opens a connection, by TLS where its URL says so.
pub(super) async fn connect(uri: AMQPUri, tls: &Tls, properties: ConnectionProperties) -> lapin::Result<Connection> {
    let runtime = lapin::runtime::default_runtime()?;
    let (host, port) = (uri.authority.host.as_str(), uri.authority.port);
    let addresses: Vec<_> = tokio::net::lookup_host((host, port)).await?.collect();
    let open = |address| AsyncTcpStream::connect(&runtime, vec![address]);
    let plain = first_of(&addresses, patience(addresses.len()), open).await?;
    let mut cut = Cut(None);
    if let AsyncTcpStream::Plain(socket) = &plain {
        cut.0 = Some(socket.get_ref().as_fd().try_clone_to_owned()?.into());
    }
    let stream = match uri.scheme {
        AMQPScheme::AMQP => plain,
        AMQPScheme::AMQPS => plain.into_rustls(&tls::connector(tls)?, host).await?,
    };
    let stream = Mutex::new(Some(stream));
    // Asked for once: none of lapin's own tries again is turned on.
    let open = async move |_uri, _runtime| {
        let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
        stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected).into())
    };
    let connection = Connection::connector(uri, runtime, open, properties).await?;
    cut.keep();
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_address_that_says_nothing_leaves_time_for_the_others_and_for_the_handshake() {
        let addresses: Vec<SocketAddr> = (1..=9).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect();
        for there in [2, 3, 9] {
            let opened = first_of(&addresses[..there], patience(there), |address| async move {
                if usize::from(address.port()) < there {
                    std::future::pending().await
                }
                Ok(address.port())
            });
            let began = tokio::time::Instant::now();
            assert_eq!(usize::from(opened.await.unwrap()), there);
            assert!(began.elapsed() < ANSWER - Duration::from_millis(900), "{:?} for {there}", began.elapsed());
        }
        let error = first_of(&addresses[..1], patience(1), |_| std::future::pending::<io::Result<()>>()).await;
        assert_eq!(error.unwrap_err().to_string(), "127.0.0.1:1 does not answer");
    }
}
