//! Asking where to go: one message, answered by whichever incarnation of the actors is alive.

use super::Flight;
use crate::{
    domain::GatewayError,
    route::{ClassifierMsg, Decision},
};
use ractor::RpcReplyPort;
use std::{sync::Arc, time::Duration};
use tokio::sync::oneshot;

/// Pause before asking again after an actor died with the question. The successor's address is waited for as well; this
/// only keeps a flight from spinning while the death is being noticed.
const ASK_AGAIN: Duration = Duration::from_millis(5);

impl Flight {
    /// Asks until an answer comes. The question is idempotent: an actor that died with it lost nothing but time. The
    /// flight's deadline ends it from outside.
    pub(super) async fn decide(&self) -> Result<Decision, GatewayError> {
        loop {
            let Some(classifier) = self.services.classifier.wait(self.job.deadline).await else {
                return Err(super::flight_timeout(&self.job));
            };
            if self.services.router.wait(self.job.deadline).await.is_none() {
                return Err(super::flight_timeout(&self.job));
            }
            let (sender, answer) = oneshot::channel();
            let reply_to = RpcReplyPort::from(sender);
            let asked = classifier.cast(ClassifierMsg::Classify { job: Arc::clone(&self.job), reply_to });
            if asked.is_ok()
                && let Ok(decision) = answer.await
            {
                return decision;
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }
}
