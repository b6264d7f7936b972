//! The listener and its connections, each with a switch that closes it before another byte is written.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{extract::connect_info::Connected, serve::IncomingStream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// The switch of one connection; it is also thrown when the server stops.
#[derive(Clone)]
pub(super) struct Wire {
    closed: CancellationToken,
    server: CancellationToken,
}

impl Wire {
    /// Closes the connection: whatever is written from now on does not get out.
    pub(super) fn cut(&self) {
        self.closed.cancel();
    }

    /// Cancelled when the connection is closed from this side.
    pub(super) fn closed(&self) -> &CancellationToken {
        &self.closed
    }

    /// Cancelled when the server stops.
    pub(super) fn server(&self) -> &CancellationToken {
        &self.server
    }
}

/// A TCP listener whose connections can be cut.
pub(super) struct Socket {
    listener: TcpListener,
    server: CancellationToken,
}

impl Socket {
    pub(super) fn new(listener: TcpListener, server: CancellationToken) -> Self {
        Self { listener, server }
    }
}

impl axum::serve::Listener for Socket {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => return (Connection::new(stream, &self.server), address),
                Err(error) => {
                    tracing::warn!(%error, "the sim could not accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Connected<IncomingStream<'_, Socket>> for Wire {
    fn connect_info(stream: IncomingStream<'_, Socket>) -> Self {
        stream.io().wire.clone()
    }
}

/// One connection.
pub(super) struct Connection {
    stream: TcpStream,
    wire: Wire,
    closing: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Connection {
    fn new(stream: TcpStream, server: &CancellationToken) -> Self {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY was refused");
        }
        let closed = server.child_token();
        let closing = Box::pin(closed.clone().cancelled_owned());
        Self { stream, wire: Wire { closed, server: server.clone() }, closing }
    }

    fn check(&self) -> io::Result<()> {
        if self.wire.closed.is_cancelled() { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }
}

impl AsyncRead for Connection {
    /// Reading is what wakes an idle or waiting connection when its switch is thrown.
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.closing.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
