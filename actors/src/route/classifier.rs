//! ClassifierActor: grades a request and forwards it to RouterActor, so that a flight sends one message for both. It
//! lives here and not in `classify`, which stays pure, because it must know where the router is.

use super::actor::{RouteReply, RouterMsg, internal};
use crate::{
    chaos::{self, Fault},
    classify::{self, Classification},
    config::ClassifierKind,
    domain::ChatRequest,
    jobs::Job,
    observe,
    supervise::Address,
};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

pub enum ClassifierMsg {
    /// From a flight: the receiver MUST forward job, grade and reply port to RouterActor. If that is impossible the port
    /// is dropped, and the flight asks again.
    Classify { job: Arc<Job>, reply_to: RouteReply },
    /// From the chaos endpoint: end as told.
    Chaos(Fault),
}

#[derive(Clone)]
pub struct ClassifierActor {
    pub router: Address<RouterMsg>,
}

/// By the configured classifier; explanations grade the same way.
pub(super) fn grade(request: &ChatRequest, kind: ClassifierKind) -> Classification {
    match kind {
        ClassifierKind::Keywords => classify::by_keywords(request),
        ClassifierKind::Learned(cuts) => classify::by_weights(request, cuts),
    }
}

impl Actor for ClassifierActor {
    type Msg = ClassifierMsg;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<ClassifierMsg>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(
        &self,
        _: ActorRef<ClassifierMsg>,
        message: ClassifierMsg,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ClassifierMsg::Classify { job, reply_to } => {
                // A request that breaks the classifier is that request's error, not the classifier's death.
                match catch_unwind(AssertUnwindSafe(|| grade(&job.request, job.config.router.classifier))) {
                    Ok(grade) => {
                        observe::graded(job.who(), grade.complexity.as_str(), grade.fails);
                        let _ = self.router.cast(RouterMsg::Route { job, grade, reply_to });
                    }
                    Err(_) => drop(reply_to.send(Err(internal("the request could not be graded")))),
                }
            }
            ClassifierMsg::Chaos(fault) => chaos::obey(fault)?,
        }
        Ok(())
    }
}
