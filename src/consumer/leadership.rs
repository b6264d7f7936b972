//! Who leads: elected, and with what the former leader has done read to its end. `docs/adr/0006` argues why two can never call at once.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use jiff::Timestamp;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::process::{Consumer, Supervisor};
use super::term::{LostTerm, Term};
use super::workload::Workload;
use crate::amqp::election::{FORMER_LEADER_DELAY, Fenced, REPEAT, after_another};
use crate::amqp::error::BrokerError;
use crate::amqp::link::Link;
use crate::amqp::publisher::Publisher;
use crate::amqp::registration::Registration;
use crate::board::{Board, Session as Standing};
use crate::domain::leader_proof::{Chain, FRESH};
use crate::domain::ledger::Before;
use crate::telemetry::logs::millis;
use crate::telemetry::metrics;

/// How long no ping comes back, though they are confirmed, until this process takes it that another leads.
const LAPSE: Duration = Duration::from_secs(5);
/// How long a lapse is until it is shown that nothing moves.
const LONG_LAPSE: Duration = Duration::from_secs(30);
/// How long until something is written to the ledger again that was not taken.
const AGAIN: Duration = Duration::from_secs(1);
/// How long it is tried in vain to take over, or to go on after a lapse, until another candidate has its turn.
const IN_VAIN: Duration = Duration::from_secs(60);
/// How long one who is elected waits for what the term before has left.
const LEFT: Duration = Duration::from_secs(15);
/// A ping that was confirmed within this shows that they reach the queue.
const CONFIRMED: Duration = Duration::from_secs(1);

impl<W: Workload> Consumer<W> {
    /// Where all lost the broker, the former leader goes first: it remembers how far it has come.
    pub(super) async fn after_former_leader(&self) {
        if !self.election.was_ours() {
            sleep(FORMER_LEADER_DELAY).await;
        }
    }

    /// Stands by until this process leads and nobody else can still be at work.
    pub(super) async fn elect(&self, supervisor: &Supervisor<'_, W>, link: &Link) -> Result<Term, BrokerError> {
        link.declare(&self.shared.topology()).await?;
        // Read from now on, so that little is left to read when the time comes.
        let _reading = supervisor.ledger.reading();
        let publisher = Arc::new(Publisher::of(Arc::clone(&link.pool)));
        let registration = self.election.register(link).await?;
        let gone = registration.gone().clone();
        let lost = || BrokerError::Retry("a connection or a channel was lost before this process led".into());
        let left = self.publish_left(&publisher).shared();
        let elected = async {
            let chosen = self.take_turn(supervisor, link, &publisher, &registration).await;
            // What is on its way is known to be confirmed or not, before it may be published once more.
            let _ = timeout(LEFT, left.clone()).await;
            if chosen.is_ok() && self.election.is_led_by_0_1(&link.looks).await? {
                return Err(BrokerError::Retry("a process of release 0.1 leads".into()));
            }
            chosen
        };
        let last = async {
            left.clone().await;
            self.release_last(&publisher).await
        };
        let elected = tokio::select! {
            biased;
            () = gone.cancelled() => return Err(lost()),
            elected = elected => elected,
            never = last => match never {},
        };
        let (chain, fenced) = match elected {
            Ok(elected) => elected,
            Err(trouble) => {
                // One that can ping and not take over keeps nobody else from it.
                registration.withdraw(&publisher).await;
                return Err(trouble);
            }
        };
        *self.lost_term() = None;
        self.election.complete(&fenced);
        Ok(Term { registration, publisher: Arc::clone(&publisher), looks: Arc::clone(&link.looks), chain, fenced })
    }

    /// Stands by until it is elected and has read what the former leader has done; and so again until the proof of it holds all the while.
    async fn take_turn(
        &self,
        supervisor: &Supervisor<'_, W>,
        link: &Link,
        publisher: &Arc<Publisher>,
        registration: &Registration,
    ) -> Result<(Chain, Fenced), BrokerError> {
        let proof = registration.proof();
        let mut failing = Failing::default();
        loop {
            let began = Instant::now();
            let chain =
                self.election.stand_by(registration, &link.looks, |standing| self.says(supervisor, standing)).await?;
            if began.elapsed() >= LAPSE {
                failing = Failing::default();
            }
            // An unbroken proof all the while, or it starts over.
            let taken_over = tokio::select! {
                () = proof.broken(chain) => {
                    self.says(supervisor, Standing::Starting("no ping came back in time; the takeover starts over".into()));
                    if failing.for_long() {
                        break Err(BrokerError::Retry("the proof breaks again and again".into()));
                    }
                    continue;
                }
                () = self.election.until_led_by_0_1(&link.looks) => continue,
                taken_over = self.take_over(supervisor, publisher, registration) => taken_over,
            };
            match taken_over {
                // One of release 0.1 that has taken its lease since has read our fence, and waits; we let it go first.
                Ok(_) if self.election.is_led_by_0_1(&link.looks).await? => failing = Failing::default(),
                Ok(fenced) if proof.accept(chain) => break Ok((chain, fenced)),
                Ok(_) => {}
                Err(BrokerError::Retry(reason)) if failing.for_long() => break Err(BrokerError::Retry(reason)),
                Err(BrokerError::Retry(reason)) => {
                    self.says(supervisor, Standing::Starting(reason));
                    sleep(AGAIN).await;
                }
                Err(trouble @ (BrokerError::Missing(_) | BrokerError::NeedsOperator(_) | BrokerError::Misfit(_))) => {
                    break Err(trouble);
                }
            }
        }
    }

    /// How it stands while it does not lead.
    fn says(&self, supervisor: &Supervisor<'_, W>, standing: Standing) {
        let (subject, org) = (self.shared.subject(), self.shared.subject().org());
        if matches!(standing, Standing::Standby(_)) {
            self.works();
            self.shared.gate().stand_by();
        }
        if !supervisor.board.session(subject, standing.clone()) {
            return;
        }
        match &standing {
            Standing::Standby(None) => tracing::info!(org, "standing by: another process leads"),
            Standing::Standby(Some(reason))
            | Standing::Starting(reason)
            | Standing::TakingOver(reason)
            | Standing::NoLeader(reason)
            | Standing::Stopped(reason) => {
                tracing::warn!(org, reason, "not leading");
            }
            Standing::Active => {}
        }
    }

    /// Reads the ledger to its end. Where another process led last and did not say that it was done, waits until it can do nothing more.
    async fn take_over(
        &self,
        supervisor: &Supervisor<'_, W>,
        publisher: &Publisher,
        registration: &Registration,
    ) -> Result<Fenced, BrokerError> {
        let (shared, began) = (&self.shared, Instant::now());
        let org = shared.subject().org();
        let longest = shared.longest_call();
        let (before, fenced) = self.election.fence(publisher, longest).await?;
        match before {
            Before::Ourselves => shared.gate().goes_on(),
            Before::Nobody => shared.forget(),
            Before::Another(theirs) => {
                // Release 0.1 does not say it: as long as ours, then.
                let wait = after_another(theirs.unwrap_or(longest));
                let why = format!(
                    "taking over: for {} s the {} before may still be at work",
                    wait.as_secs_f32(),
                    supervisor.command
                );
                tracing::info!(org, delay_ms = millis(wait), "{why}");
                supervisor.board.session(shared.subject(), Standing::TakingOver(why));
                // When the fence was read, the other may have been made the active one again, and its proof be younger than ours.
                registration.prove_anew().await;
                // It may say so itself, as soon as it is connected again.
                let released = self.election.until_released(&fenced);
                tokio::pin!(released);
                let is_released = timeout(FRESH, released.as_mut()).await.is_ok();
                // Only now, with the last call of the process before begun: our limiter and its own never count the same second.
                shared.forget();
                if !is_released && timeout(wait - FRESH, released).await.is_err() {
                    tracing::debug!(org, "it did not say that it is done");
                }
                self.election.fence_again(publisher, &fenced, longest).await?;
            }
        }
        if before != Before::Ourselves {
            shared.takes_over();
        }
        tracing::info!(org, took_ms = millis(began.elapsed()), "active now; history loaded");
        Ok(fenced)
    }

    /// Watches over a term. After a lapse of the proof no call begins until a ping that was sent after it has come back, and a fence shows
    /// that nobody else led in between: then what is in flight goes on.
    ///
    /// # Errors
    /// Where another process leads, or has led.
    pub(super) async fn keep_leading(&self, term: &Term, board: &Board) -> Result<Infallible, BrokerError> {
        let another = || BrokerError::Retry("another process leads".into());
        let watched = async {
            let mut chain = term.chain;
            loop {
                term.registration.proof().broken(chain).await;
                chain = self.lead_again(term, board).await?;
            }
        };
        let subject = self.shared.subject();
        let told = async {
            let _shown = metrics::LeaderProof::of(subject);
            loop {
                metrics::leader_proof_age(subject, term.registration.proof().age());
                sleep(CONFIRMED).await;
            }
        };
        tokio::select! {
            ended = watched => ended,
            never = told => never,
            () = self.election.until_led_by_0_1(&term.looks) => Err(another()),
        }
    }

    async fn lead_again(&self, term: &Term, board: &Board) -> Result<Chain, BrokerError> {
        let (subject, proof, lapsed) = (self.shared.subject(), term.registration.proof(), Instant::now());
        let org = subject.org();
        tracing::warn!(org, "no ping came back in time: no call begins until one does");
        let is_confirmed = || proof.confirmed_at().is_some_and(|at| at.elapsed() < CONFIRMED);
        let (mut broke, mut failing) = (lapsed, Failing::default());
        loop {
            let chain = tokio::select! {
                biased;
                chain = proof.chain() => chain,
                () = another_leads(broke, is_confirmed) => {
                    return Err(BrokerError::Retry("no ping comes back, so another process leads".into()));
                }
                () = sleep_until(broke + LONG_LAPSE) => {
                    let why = "no ping comes back, and none is confirmed: the broker takes no messages, or a majority of its nodes is missing";
                    board.session(subject, Standing::NoLeader(why.into()));
                    failing = Failing::default();
                    sleep(CONFIRMED).await;
                    continue;
                }
            };
            let read = tokio::select! {
                read = self.election.fence_again(&term.publisher, &term.fenced, self.shared.longest_call()) => read,
                () = proof.broken(chain) => {
                    broke = Instant::now();
                    let again = "the proof breaks again and again";
                    if failing.for_long() {
                        return Err(BrokerError::Retry(again.into()));
                    }
                    board.session(subject, Standing::Starting(again.into()));
                    continue;
                }
            };
            broke = Instant::now();
            let is_ours = match read {
                Ok(read) => !self.election.may_another_have_led(&read),
                Err(BrokerError::Retry(reason)) if failing.for_long() => return Err(BrokerError::Retry(reason)),
                Err(BrokerError::Retry(reason)) => {
                    tracing::warn!(org, reason, "it is not known yet whether another process has led");
                    board.session(subject, Standing::Starting(reason));
                    sleep(AGAIN).await;
                    continue;
                }
                Err(trouble @ (BrokerError::Missing(_) | BrokerError::NeedsOperator(_) | BrokerError::Misfit(_))) => {
                    return Err(trouble);
                }
            };
            failing = Failing::default();
            if !is_ours {
                return Err(BrokerError::Retry("another process has led in between".into()));
            }
            if proof.accept(chain) {
                board.session(subject, Standing::Active);
                let lapse = millis(lapsed.elapsed());
                tracing::info!(org, lapse_ms = lapse, "pings come back, and nobody else has led: going on");
                return Ok(chain);
            }
        }
    }

    /// Says again and again that this process leads, for those who start meanwhile.
    pub(super) async fn repeat(&self, term: &Term) -> Infallible {
        loop {
            sleep(REPEAT).await;
            // After a lapse another may stand before the fence that shows it.
            if term.proof().is_fresh() {
                self.election.repeat(&term.publisher, &term.fenced, self.shared.longest_call()).await;
            }
        }
    }

    /// Gives the leadership up, with everything done: the next process need not wait.
    pub(super) async fn release(&self, term: Term) {
        let Term { registration, publisher, fenced, .. } = term;
        let org = self.shared.subject().org();
        match self.election.release_soon(&publisher, &fenced).await {
            Ok(()) => tracing::info!(org, "released"),
            Err(trouble) => {
                tracing::warn!(org, reason = %trouble, "the leadership could not be released cleanly; who takes over waits a little");
            }
        }
        registration.withdraw(&publisher).await;
    }

    /// A term has ended otherwise. With nothing left in flight it is said that it is over, as soon as there is a connection to say it by, and
    /// everything is confirmed.
    pub(super) async fn lost(&self, term: Term, clean: bool) {
        let Term { registration, publisher, fenced, .. } = term;
        let proof = registration.proof().clone();
        *self.lost_term() = clean.then_some(LostTerm { fenced, proof, at: Timestamp::now() });
        registration.withdraw(&publisher).await;
    }

    /// Publishes what the last term has left, where its connection was lost.
    async fn publish_left(&self, publisher: &Publisher) {
        let Some(LostTerm { fenced, proof, .. }) = self.lost_term().clone() else { return };
        let longest = self.shared.longest_call();
        if self.shared.is_all_confirmed() {
            return;
        }
        // What reached the broker, and was not confirmed, is read first: it is not written twice.
        let is_read = self.election.fence_again(publisher, &fenced, longest).await.is_ok();
        if !is_read || !self.shared.publish_left(publisher, &|| proof.allows_late_publishes(longest)).await {
            *self.lost_term() = None;
        }
    }

    /// Says that the last term is over, where it was lost and that was not said yet. Others need not wait then.
    async fn release_last(&self, publisher: &Publisher) -> Infallible {
        // No more of it: its proof keeps a channel open.
        let lost = self.lost_term().as_ref().map(|lost| (lost.fenced.clone(), lost.at));
        if let Some((fenced, at)) = lost {
            while let Err(trouble) = self.election.release(publisher, &fenced, at).await {
                tracing::debug!(org = self.shared.subject().org(), reason = %trouble, "the last term cannot be given up yet");
                sleep(AGAIN).await;
            }
            *self.lost_term() = None;
        }
        std::future::pending().await
    }
}

/// Since when something fails, one time after the other.
#[derive(Debug, Default)]
struct Failing(Option<Instant>);

impl Failing {
    /// It has failed once more. Whether that has gone on for long.
    fn for_long(&mut self) -> bool {
        self.0.get_or_insert_with(Instant::now).elapsed() >= IN_VAIN
    }
}

/// Ends when a lapse has lasted for long although pings reach the queue: so they come back to another.
async fn another_leads(lapsed: Instant, reaches_queue: impl Fn() -> bool) {
    sleep_until(lapsed + LAPSE).await;
    while !reaches_queue() {
        sleep(CONFIRMED).await;
    }
}
