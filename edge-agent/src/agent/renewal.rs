//! Keeps the box's certificate fresh for as long as the agent runs.

use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, info, warn};

use super::AgentError;
use crate::clock::WallClock;
use crate::config::{Config, Hub, HubProof};
use crate::core::renewal::Renewal;
use crate::credentials::Credentials;
use crate::enrol::{self, EnrolError};
use crate::identity::{Enrolment, IdentityError, IdentityFolder};

/// The clock may be set meanwhile: it is looked at as often as this.
const LOOK_MS: u64 = 60_000;

/// What is renewed.
pub(super) struct Keeper {
    pub(super) enrolment: Enrolment,
    pub(super) folder: IdentityFolder,
    pub(super) credentials: Arc<Credentials>,
    pub(super) wall: WallClock,
    /// From 0 to 1, random.
    pub(super) spread: f64,
    /// When the certificate in use was issued, and until when it holds.
    pub(super) validity_ms: (i64, i64),
}

/// What the box shows its hub, and who keeps it fresh, if that is the agent itself.
pub(super) fn credentials(
    hub: &Hub,
    config: &Config,
    wall: &WallClock,
) -> Result<(Arc<Credentials>, Option<Keeper>), AgentError> {
    let (ca_file, certificate_file, key_file) = match &hub.proof {
        HubProof::Files { ca_file, certificate_file, key_file } => (ca_file, certificate_file, key_file),
        HubProof::Enrolled => {
            let folder = IdentityFolder::of(&config.agent.state_directory);
            let held = folder.current()?.ok_or_else(|| IdentityError::Damaged {
                path: folder.path().to_owned(),
                problem: "the certificate is missing".to_owned(),
            })?;
            let credentials = Arc::new(Credentials::held(&held, &folder.authorities()?, wall.clone())?);
            let hubs = hub.places.iter().map(|place| place.tcp_address.clone()).collect();
            let enrolment = Enrolment { agent: config.agent.name.clone(), hubs, server_name: hub.server_name.clone() };
            let keeper = Keeper {
                enrolment,
                folder,
                credentials: Arc::clone(&credentials),
                wall: wall.clone(),
                spread: rand::random(),
                validity_ms: (held.issued_ms, held.not_after_ms),
            };
            return Ok((credentials, Some(keeper)));
        }
    };
    let credentials = Credentials::from_files(ca_file, certificate_file, key_file, wall.clone())?;
    Ok((Arc::new(credentials), None))
}

impl Keeper {
    /// Runs until it is aborted: nothing it does on the way leaves the box without a certificate.
    pub(super) async fn run(mut self) {
        // The program before may have ended between the answer and its confirmation.
        let mut settled = self.settle().await;
        let mut renewal = self.renewal();
        let mut told = false;
        loop {
            let wait_ms = renewal.due_in_ms(self.wall.unix_ms());
            if wait_ms > 0 {
                tokio::time::sleep(Duration::from_millis(wait_ms.min(LOOK_MS))).await;
                if !settled {
                    settled = self.settle().await;
                    renewal = self.renewal();
                }
                continue;
            }
            match enrol::renew(&self.enrolment, &self.folder, &self.credentials, &self.wall).await {
                Ok(held) => {
                    info!(until_ms = held.not_after_ms, "the box has a new certificate");
                    self.validity_ms = (held.issued_ms, held.not_after_ms);
                    (renewal, told) = (self.renewal(), false);
                }
                Err(error) => {
                    if told && !matches!(error, EnrolError::Identity(_)) {
                        debug!("still failed to {error}");
                    } else {
                        warn!("failed to {error}; the box goes on trying");
                    }
                    told = true;
                    renewal.failed(self.wall.unix_ms());
                }
            }
        }
    }

    fn renewal(&self) -> Renewal {
        let (issued_ms, not_after_ms) = self.validity_ms;
        Renewal::new(issued_ms, not_after_ms, self.spread)
    }

    /// Whether nothing waits for a confirmation any more.
    async fn settle(&mut self) -> bool {
        match enrol::settle(&self.enrolment, &self.folder, &self.credentials, &self.wall).await {
            Ok(Some(held)) => {
                self.validity_ms = (held.issued_ms, held.not_after_ms);
                true
            }
            Ok(None) => true,
            Err(error) => {
                debug!("failed to {error}");
                false
            }
        }
    }
}
