//! A talk of requests and answers with the hub, over TLS on its TCP port: for what has a protocol of its own.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use shared::wire::frame::{self, FrameError, FrameHeader, HEADER_BYTES};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::credentials::{Credentials, CredentialsError};

/// Time to connect, and for one answer.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Why a talk came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum TalkError {
    /// The hub does not answer.
    #[error("reach the hub at {address}: {problem}")]
    Reach {
        /// Its address.
        address: String,
        /// What is wrong.
        problem: String,
    },
    /// The hub does not prove who it is, or does not believe the box.
    #[error("trust the hub at {address}: {problem}")]
    Trust {
        /// Its address.
        address: String,
        /// What is wrong.
        problem: String,
    },
    /// The hub said something else.
    #[error("understand the hub: {0}")]
    Frame(#[from] FrameError),
    /// The hub answered more than there may be.
    #[error("understand the hub: it answered {bytes} bytes, at most {limit} are allowed")]
    TooLong {
        /// What it declared.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The box's certificates.
    #[error("{0}")]
    Credentials(#[from] CredentialsError),
}

/// A connection that a talk is held over.
#[derive(Debug)]
pub struct Talk {
    stream: TlsStream<TcpStream>,
    address: String,
}

impl Talk {
    /// Connects to the hub at `address`, `host:port`, which must prove that it is `server_name`.
    ///
    /// # Errors
    /// If it is not reached, or is another one.
    pub async fn open(
        address: &str,
        server_name: &str,
        credentials: &Arc<Credentials>,
        alpn: &[u8],
    ) -> Result<Self, TalkError> {
        let reach = |problem: String| TalkError::Reach { address: address.to_owned(), problem };
        let trust = |problem: String| TalkError::Trust { address: address.to_owned(), problem };
        let name = ServerName::try_from(server_name.to_owned()).map_err(|error| trust(error.to_string()))?;
        let tls = TlsConnector::from(Arc::new(credentials.client(alpn)?));
        let connect = async {
            let stream = TcpStream::connect(address).await.map_err(|error| reach(error.to_string()))?;
            tls.connect(name, stream).await.map_err(|error| trust(error.to_string()))
        };
        let stream = tokio::time::timeout(TIMEOUT, connect).await.map_err(|_| reach(too_long()))??;
        Ok(Self { stream, address: address.to_owned() })
    }

    /// Asks, and waits for an answer of at most `max_bytes`.
    ///
    /// # Errors
    /// If none comes, or it is none.
    pub async fn ask<A: DeserializeOwned>(
        &mut self,
        request: &impl Serialize,
        max_bytes: usize,
    ) -> Result<A, TalkError> {
        let address = self.address.clone();
        let timed_out = || TalkError::Reach { address, problem: too_long() };
        tokio::time::timeout(TIMEOUT, self.exchange(request, max_bytes)).await.map_err(|_| timed_out())?
    }

    /// Ends the talk.
    pub async fn close(mut self) {
        // All that matters was read.
        self.stream.shutdown().await.ok();
    }

    async fn exchange<A: DeserializeOwned>(
        &mut self,
        request: &impl Serialize,
        max_bytes: usize,
    ) -> Result<A, TalkError> {
        let mut bytes = Vec::new();
        frame::encode(request, &mut bytes)?;
        let address = &self.address;
        let reach = |error: io::Error| TalkError::Reach { address: address.clone(), problem: error.to_string() };
        // A hub that does not believe the certificate says so when it is first read from.
        let refused = |error: io::Error| match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::AlertReceived(_)) => TalkError::Trust {
                address: address.clone(),
                problem: format!("it does not take this box's certificate: {error}"),
            },
            Some(_) | None => reach(error),
        };
        self.stream.write_all(&bytes).await.map_err(reach)?;
        self.stream.flush().await.map_err(reach)?;
        let mut header = [0; HEADER_BYTES];
        self.stream.read_exact(&mut header).await.map_err(refused)?;
        let header = FrameHeader::decode(header)?;
        if header.length > max_bytes {
            return Err(TalkError::TooLong { bytes: header.length, limit: max_bytes });
        }
        let mut body = vec![0; header.length];
        self.stream.read_exact(&mut body).await.map_err(reach)?;
        Ok(header.open(&body)?)
    }
}

fn too_long() -> String {
    format!("no answer within {} s", TIMEOUT.as_secs())
}
