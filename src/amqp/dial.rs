//! Opening a connection so that a failed try leaves nothing behind. lapin's own way leaves a task for each socket that could not be opened,
//! and a thread for each broker that takes the socket and says nothing: the socket is opened here, and cut where no connection comes of it.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

use lapin::tcp::AsyncTcpStream;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Connection, ConnectionProperties};

use super::tls;
use crate::config::amqp::Tls;

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

/// Opens a connection to this address of its URL's host, by TLS where the URL says so: the certificate must name that host.
pub(super) async fn connect(
    uri: AMQPUri,
    address: SocketAddr,
    tls: &Tls,
    properties: ConnectionProperties,
) -> lapin::Result<Connection> {
    let runtime = lapin::runtime::default_runtime()?;
    let plain = AsyncTcpStream::connect(&runtime, vec![address]).await?;
    let mut cut = Cut(None);
    if let AsyncTcpStream::Plain(socket) = &plain {
        cut.0 = Some(socket.get_ref().as_fd().try_clone_to_owned()?.into());
    }
    let stream = match uri.scheme {
        AMQPScheme::AMQP => plain,
        AMQPScheme::AMQPS => plain.into_rustls(&tls::connector(tls)?, &uri.authority.host).await?,
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
