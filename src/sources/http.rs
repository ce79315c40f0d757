//! Whom HTTP clients trust.

use std::fmt;
use std::sync::Arc;

use reqwest::{Certificate, ClientBuilder};

/// The certificates of a `ca_file`, which are trusted instead of those of the system.
#[derive(Clone, Eq, PartialEq)]
pub struct Authorities {
    pem: Arc<[u8]>,
}

impl Authorities {
    /// Fails unless there is a certificate in it, and all of them can be trusted.
    pub fn parse(pem: Vec<u8>) -> Result<Self, reqwest::Error> {
        let authorities = Self { pem: pem.into() };
        trusting(reqwest::Client::builder(), Some(&authorities))?.build()?;
        Ok(authorities)
    }
}

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorities").finish_non_exhaustive()
    }
}

/// A client that trusts these authorities alone, or those of the system.
pub fn trusting(client: ClientBuilder, authorities: Option<&Authorities>) -> Result<ClientBuilder, reqwest::Error> {
    let Some(authorities) = authorities else { return Ok(client) };
    Ok(client.tls_certs_only(Certificate::from_pem_bundle(&authorities.pem)?))
}
