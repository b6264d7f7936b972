//! Which steps are possible, and what each does.

use crate::candidate::{Candidate, Fence, Job, Phase, Ping, Release, Standing};
use crate::{Bound, FRESH, GRACE, Id, Leadership, SPARE, State, Step};

/// Whether a candidate can take a step, and the step.
type Possible = (bool, fn(Id) -> Step);

impl<const N: usize> Leadership<N> {
    fn ids() -> impl Iterator<Item = Id> {
        (0..N).filter_map(|place| u8::try_from(place).ok()).map(Id)
    }

    fn request_timeout(&self, id: Id) -> u8 {
        self.request_timeout[usize::from(id.0)]
    }

    pub(crate) fn possible(&self, state: &State<N>, steps: &mut Vec<Step>) {
        // An outcome that was sent is in the stream by then.
        if !state.candidates.iter().any(|candidate| candidate.job == Job::Publishing) {
            steps.push(Step::Tick(None));
            steps.extend(Self::ids().filter(|_| state.slow.is_none()).map(|id| Step::Tick(Some(id))));
        }
        if state.handovers != Some(0) {
            steps.extend(Self::ids().filter(|id| *id != state.active).map(Step::HandOver));
        }
        for id in Self::ids() {
            let me = state.of(id);
            let possible = self.possible_of(state, id, me);
            steps.extend(possible.into_iter().filter(|(is_possible, _)| *is_possible).map(|(_, step)| step(id)));
        }
    }

    fn possible_of(&self, state: &State<N>, id: Id, me: &Candidate) -> [Possible; 16] {
        let is_waiting = matches!(me.phase, Phase::Proving(..) | Phase::Waiting(_));
        let assigned = state.active == id || !self.has(Bound::RegistrationId);
        let fences = matches!(me.phase, Phase::Standby | Phase::Waiting(0));
        let releases = me.leads() || is_waiting && !self.has(Bound::ReleasedByLeader);
        let is_new = *me == Candidate { ping: me.ping, ..Candidate::new() };
        [
            (me.ping != Ping::Sent(0), Step::Send),
            (matches!(me.ping, Ping::Sent(_)) && assigned, Step::Assign),
            (matches!(me.ping, Ping::Assigned(_) | Ping::OfAnother), Step::Receive),
            (me.is_fresh() && fences, Step::WriteFence),
            (me.fence == Fence::Sent, Step::FenceLands),
            (me.late_fence, Step::LateFenceLands),
            (me.is_fresh() && matches!(me.fence, Fence::Landed(_)), Step::ReadFence),
            (is_waiting && me.awaits == Release::Landed, Step::ReadReleased),
            (me.phase == Phase::Waiting(0) && !self.has(Bound::SecondFence), Step::ReadReleased),
            (me.leads() && me.is_fresh() && me.job == Job::None, Step::Call),
            (matches!(me.job, Job::Calling(_)), Step::EndCall),
            (self.outcomes && me.job == Job::Ended && self.may_publish(id, me), Step::Publish),
            (me.job == Job::Publishing, Step::OutcomeLands),
            (self.releases && releases && me.job == Job::None, Step::Release),
            (me.released, Step::ReleasedLands),
            (self.kills && !is_new, Step::Kill),
        ]
    }

    fn may_publish(&self, id: Id, me: &Candidate) -> bool {
        me.leads()
            || me.led < self.last_publish(id)
            || !self.has(Bound::PublishGrace)
            || !self.has(Bound::PublishByFence) && me.is_fresh()
    }

    /// How long after the proof that a call began by its outcome may be published.
    fn last_publish(&self, id: Id) -> u8 {
        FRESH + self.request_timeout(id) + GRACE
    }

    pub(crate) fn take(&self, state: &mut State<N>, step: Step) {
        match step {
            Step::Tick(slow) => self.tick(state, slow),
            Step::HandOver(id) => {
                state.active = id;
                state.handovers = state.handovers.map(|left| left - 1);
            }
            Step::Send(id) => {
                let me = state.of_mut(id);
                me.ping = Ping::Sent(0);
                if let Phase::Proving(_, is_older) = &mut me.phase {
                    *is_older = false;
                }
            }
            Step::Assign(id) => self.assign(state, id),
            Step::Receive(id) => self.receive(state.of_mut(id)),
            Step::WriteFence(id) => {
                let me = state.of_mut(id);
                me.phase = if me.phase == Phase::Standby { Phase::Fencing } else { Phase::FencingAgain };
                me.fence = Fence::Sent;
            }
            Step::FenceLands(id) => self.fence_lands(state, id),
            Step::LateFenceLands(id) => {
                state.of_mut(id).late_fence = false;
                self.name_lands(state, id);
                state.last_is_late = true;
            }
            Step::ReadFence(id) => self.read_fence(state.of_mut(id)),
            Step::ReadReleased(id) => state.of_mut(id).lead(false),
            Step::Call(id) => state.of_mut(id).job = Job::Calling(self.request_timeout(id)),
            Step::EndCall(id) => state.of_mut(id).job = Job::Ended,
            Step::Publish(id) => state.of_mut(id).job = Job::Publishing,
            Step::OutcomeLands(id) => {
                state.of_mut(id).job = Job::None;
                state.others(id).filter(|other| other.reads_no_further()).for_each(|other| other.unread = true);
            }
            Step::Release(id) => {
                let me = state.of_mut(id);
                me.stand_by(self.late_fences);
                (me.settled, me.released) = (false, true);
            }
            Step::ReleasedLands(id) => self.released_lands(state, id),
            Step::Kill(id) => {
                let last_publish = self.last_publish(id);
                state.of_mut(id).start_again(self.late_fences, last_publish);
            }
        }
        for id in Self::ids() {
            self.forget(state.of_mut(id), id);
        }
    }

    /// Forgets what makes no difference any more, so that the same is one state.
    fn forget(&self, me: &mut Candidate, id: Id) {
        if me.leads() {
            me.led = me.proof;
        } else if me.job == Job::None {
            me.led = 0;
        }
        if (me.leads() || me.phase == Phase::Standby) && self.has(Bound::FenceAfterLapse) {
            me.settled &= me.alone || !self.has(Bound::AllNamesBetween);
            me.alone &= me.settled;
        }
        if me.job == Job::Ended && (!self.outcomes || !me.settled && !self.may_publish(id, me)) {
            me.job = Job::None;
        }
    }

    fn tick(&self, state: &mut State<N>, slow: Option<Id>) {
        state.slow = state.slow.or(slow);
        for id in Self::ids() {
            if slow == Some(id) {
                continue;
            }
            let me = state.of_mut(id);
            me.ping = self.aged(me.ping);
            if me.is_fresh() {
                me.proof += 1;
                me.proven_for += u8::from(!self.has(Bound::WaitFromFence) && me.proven_for < u8::MAX);
                if !me.is_fresh() {
                    self.lapse(me);
                }
            }
            if let Phase::Waiting(left) = me.phase {
                me.phase = Phase::Waiting(left.saturating_sub(1));
            }
            me.led = self.last_publish(id).min(me.led + 1);
            if let Job::Calling(left) = me.job {
                me.job = if left > 1 { Job::Calling(left - 1) } else { Job::Ended };
            }
            // A ping that is too old to be a proof is not held.
            let me = state.of(id);
            if state.holds == Some(id) && !me.is_fresh() && !matches!(me.ping, Ping::Assigned(_)) {
                state.holds = None;
            }
        }
    }

    /// A ping that is too old to be a proof is as good as lost.
    fn aged(&self, ping: Ping) -> Ping {
        let age = |age: u8| (age + 1).min(FRESH);
        match ping {
            Ping::Sent(sent) | Ping::Assigned(sent) if age(sent) == FRESH && self.has(Bound::SendTime) => Ping::None,
            Ping::Sent(sent) => Ping::Sent(age(sent)),
            Ping::Assigned(sent) => Ping::Assigned(age(sent)),
            Ping::None | Ping::OfAnother => ping,
        }
    }

    fn assign(&self, state: &mut State<N>, id: Id) {
        let active = state.active;
        let Ping::Sent(age) = std::mem::replace(&mut state.of_mut(id).ping, Ping::None) else { return };
        if active != id {
            state.of_mut(active).ping = Ping::OfAnother;
            return;
        }
        let returned = state.holds.is_some_and(|holder| holder != id);
        state.holds = self.hold_newest.then_some(id);
        let me = state.of_mut(id);
        (me.ping, me.interrupted) = (Ping::Assigned(age), me.interrupted || returned);
    }

    fn receive(&self, me: &mut Candidate) {
        let age = match std::mem::replace(&mut me.ping, Ping::None) {
            Ping::Assigned(age) if self.has(Bound::SendTime) => age,
            Ping::Assigned(_) | Ping::OfAnother | Ping::None | Ping::Sent(_) => 0,
        };
        if std::mem::take(&mut me.interrupted) {
            self.lapse(me);
        }
        if !me.is_fresh() {
            me.proven_for = 0;
        }
        me.proof = me.proof.min(age);
        if let Phase::Proving(wait, is_older) = me.phase {
            me.phase = if is_older { Phase::Proving(wait, false) } else { Phase::Waiting(wait) };
        }
        if !self.has(Bound::FenceAfterLapse) && me.phase == Phase::Standby && me.settled {
            me.lead(true);
        }
    }

    /// The proof has lapsed: whatever rested on it is given up.
    fn lapse(&self, me: &mut Candidate) {
        me.proof = FRESH;
        let goes_on = match me.phase {
            Phase::Fencing => !self.has(Bound::FenceWithinProof),
            Phase::Proving(..) | Phase::Waiting(_) => !self.has(Bound::UnbrokenWait),
            Phase::Standby | Phase::FencingAgain | Phase::Leading => false,
        };
        if !goes_on {
            me.stand_by(self.late_fences);
        }
    }

    fn fence_lands(&self, state: &mut State<N>, id: Id) {
        let (last, me) = (state.last, state.of(id));
        if me.phase == Phase::FencingAgain && self.has(Bound::OneNameATerm) {
            let me = state.of_mut(id);
            (me.fence, me.unread) = (Fence::Landed(Standing::Nobody), false);
            return;
        }
        let is_ours = me.settled && if self.has(Bound::AllNamesBetween) { me.alone } else { last == Some(id) };
        let standing = match last {
            _ if is_ours => Standing::Ourselves,
            None => Standing::Nobody,
            Some(other) => Standing::Another(self.wait(id, other, state.longest)),
        };
        let awaits = last.filter(|last| *last != id).map_or(Release::OfNobody, Release::Awaited);
        self.name_lands(state, id);
        let me = state.of_mut(id);
        (me.fence, me.settled, me.alone, me.unread) = (Fence::Landed(standing), is_ours, true, false);
        me.awaits = if me.phase == Phase::Fencing { awaits } else { Release::OfNobody };
    }

    fn wait(&self, id: Id, last: Id, longest: u8) -> u8 {
        let request_timeout = if !self.has(Bound::LeadersTimeout) {
            self.request_timeout(id)
        } else if !self.has(Bound::LongestTimeout) {
            self.request_timeout(last)
        } else {
            longest
        };
        let spare = if self.has(Bound::Spare) { SPARE } else { 0 };
        if self.has(Bound::Wait) { FRESH + request_timeout + GRACE + spare } else { 0 }
    }

    /// A fence with this name is in the stream.
    fn name_lands(&self, state: &mut State<N>, id: Id) {
        (state.last, state.last_is_late) = (Some(id), false);
        state.longest = state.longest.max(self.request_timeout(id));
        for other in state.others(id) {
            other.alone = false;
            // A `released` that comes now is of the term that begins here.
            if other.awaits == Release::Awaited(id) && self.has(Bound::ReleasedOfTerm) {
                other.awaits = Release::OfNobody;
            }
        }
        state.of_mut(id).released &= !self.has(Bound::ReleasedOfTerm);
    }

    fn read_fence(&self, me: &mut Candidate) {
        let Fence::Landed(standing) = me.fence else { return };
        match (me.phase, standing) {
            (Phase::FencingAgain, _) => me.lead(false),
            (_, Standing::Ourselves) => me.lead(true),
            (_, Standing::Nobody) => me.lead(false),
            (_, Standing::Another(wait)) => {
                let begun = if self.has(Bound::WaitFromFence) { 0 } else { me.proven_for };
                me.fence = Fence::None;
                me.phase = if self.has(Bound::WaitFromPing) && self.has(Bound::WaitFromFence) {
                    Phase::Proving(wait, me.ping != Ping::None)
                } else {
                    Phase::Waiting(wait.saturating_sub(begun))
                };
            }
        }
    }

    fn released_lands(&self, state: &mut State<N>, id: Id) {
        state.of_mut(id).released = false;
        if state.last == Some(id) && !(state.last_is_late && self.has(Bound::ReleasedOfTerm)) {
            (state.last, state.last_is_late) = (None, false);
        }
        for other in state.others(id).filter(|other| other.awaits == Release::Awaited(id)) {
            (other.awaits, other.unread) = (Release::Landed, false);
        }
    }
}
