//! The seats that connections take, and who makes room when all are taken (`docs/architecture.md`, "When something is
//! full").
//!
//! No user gets more seats than its share. When all are taken, a newcomer gets one from the user who has most of them, if
//! that has more than the newcomer: the connection ends that is idle, and was so for longest. An eighth of the seats is kept
//! for root, the daemon's user and callers that a rule is for, and no other's newcomer takes a seat from one of these. Who
//! they are is asked only when it matters.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::guest::Guest;
use crate::access::Caller;
use crate::fairness;
use crate::observe::labels::Rejection;

/// Connections that are told at the same time that there is no seat for them.
const TOLD_AT_ONCE: usize = 16;
/// Connections that end at the same time because they have to make room. The last place is never waited for: who would take
/// it has the one that is leaving for longest cut off.
const LEAVING: usize = 16;
/// Connections beyond [`Bounds::total`], all of them about to end.
pub const BEYOND: usize = TOLD_AT_ONCE + LEAVING;

/// How many connections there may be.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// In all.
    pub total: usize,
    /// Of one uid.
    pub per_uid: usize,
}

/// The seats, and who has them.
pub struct Seats {
    taken: Mutex<Taken>,
    /// One of those that make room has ended.
    left: Notify,
    refusals: Arc<Semaphore>,
    /// The kernel had no descriptor for a caller, and this was said.
    short: AtomicBool,
}

struct Taken {
    bounds: Bounds,
    /// The daemon ends, and all connections with it.
    closed: bool,
    total: usize,
    by_uid: HashMap<u32, Vec<Arc<Guest>>, RandomState>,
    /// Those that make room and have not ended yet, the one that began first in front.
    leaving: VecDeque<Arc<Guest>>,
}

/// A connection's place; free again when dropped.
pub struct Seat {
    seats: Arc<Seats>,
    guest: Arc<Guest>,
}

impl Seats {
    /// All seats are free.
    pub fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self {
            taken: Mutex::new(Taken {
                bounds,
                closed: false,
                total: 0,
                by_uid: HashMap::default(),
                leaving: VecDeque::new(),
            }),
            left: Notify::new(),
            refusals: Arc::new(Semaphore::new(TOLD_AT_ONCE)),
            short: AtomicBool::new(false),
        })
    }

    /// Takes over new bounds. Connections that are open stay open.
    pub fn set_bounds(&self, bounds: Bounds) {
        self.taken.lock().bounds = bounds;
    }

    /// Ends all connections, also those to come: what they have sent by now is answered.
    pub fn close(&self) {
        let mut taken = self.taken.lock();
        taken.closed = true;
        taken.by_uid.values().flatten().for_each(|guest| guest.end());
    }

    /// Connections at this moment.
    pub fn taken(&self) -> usize {
        self.taken.lock().total
    }

    /// Waits until one more connection may be accepted, to see whether there is a seat for it.
    pub async fn free(&self) {
        loop {
            let left = self.left.notified();
            if self.taken.lock().leaving.len() < LEAVING {
                return;
            }
            left.await;
        }
    }

    /// A seat that may be had without looking at others'.
    pub fn take_free(self: &Arc<Self>, guest: &Arc<Guest>) -> Option<Seat> {
        let mut taken = self.taken.lock();
        let is_free = taken.total < fairness::seats_for_all(taken.bounds.total)
            && taken.of(guest.caller.counts_as).len() < taken.bounds.per_uid;
        is_free.then(|| self.seat(&mut taken, guest))
    }

    /// A seat for one of this user's connections, or why there is none. `keep_a_seat_for` tells for whom some are kept.
    pub fn take(
        self: &Arc<Self>,
        guest: &Arc<Guest>,
        keep_a_seat_for: impl Fn(&Caller) -> bool,
    ) -> Result<Seat, Rejection> {
        let mut taken = self.taken.lock();
        let mine = taken.of(guest.caller.counts_as).len();
        if mine >= taken.bounds.per_uid {
            return Err(Rejection::PerUid);
        }
        if taken.total >= fairness::seats_for_all(taken.bounds.total) {
            let is_kept = keep_a_seat_for(&guest.caller);
            if !is_kept || taken.total >= taken.bounds.total {
                let other = taken.who_makes_room(mine, is_kept, keep_a_seat_for);
                taken.leave(&other.ok_or(Rejection::Full)?);
            }
        }
        Ok(self.seat(&mut taken, guest))
    }

    fn seat(self: &Arc<Self>, taken: &mut Taken, guest: &Arc<Guest>) -> Seat {
        taken.sit(guest);
        Seat {
            seats: Arc::clone(self),
            guest: Arc::clone(guest),
        }
    }

    /// Whether callers wait because no file descriptor is free. This ends as soon as one is free, even if no caller comes.
    pub fn are_short(&self) -> bool {
        if self.short.load(Ordering::Relaxed) && File::open("/dev/null").is_ok() {
            self.short.store(false, Ordering::Relaxed);
        }
        self.short.load(Ordering::Relaxed)
    }

    /// The bound, where so many are taken.
    pub fn full_at(&self) -> Option<usize> {
        let taken = self.taken.lock();
        (taken.total >= taken.bounds.total).then_some(taken.bounds.total)
    }

    /// Notes whether the kernel has descriptors for callers; true if this is news.
    pub fn note_shortage(&self, short: bool) -> bool {
        // Nearly always it is what it was, and to look costs less than to write.
        self.short.load(Ordering::Relaxed) != short && self.short.swap(short, Ordering::Relaxed) != short
    }

    /// A place for a connection that is closed after it was told that there is no seat. There are few; without one the
    /// connection is closed at once.
    pub fn refusal_place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.refusals).try_acquire_owned().ok()
    }
}

impl Taken {
    fn of(&self, uid: u32) -> &[Arc<Guest>] {
        self.by_uid.get(&uid).map_or(&[], Vec::as_slice)
    }

    fn sit(&mut self, guest: &Arc<Guest>) {
        if self.closed {
            guest.end();
        }
        self.total += 1;
        let guests = self.by_uid.entry(guest.caller.counts_as).or_default();
        guests.push(Arc::clone(guest));
    }

    /// Whether it sat until now.
    fn rise(&mut self, guest: &Arc<Guest>) -> bool {
        let Entry::Occupied(mut guests) = self.by_uid.entry(guest.caller.counts_as) else {
            return false;
        };
        // Of many the latest go first.
        let Some(at) = guests.get().iter().rposition(|other| Arc::ptr_eq(other, guest)) else {
            return false;
        };
        guests.get_mut().swap_remove(at);
        if guests.get().is_empty() {
            guests.remove();
        }
        self.total -= 1;
        true
    }

    /// The connection that makes room for one of a user who has so many.
    fn who_makes_room(
        &self,
        mine: usize,
        is_kept: bool,
        keep_a_seat_for: impl Fn(&Caller) -> bool,
    ) -> Option<Arc<Guest>> {
        let weights = self.by_uid.iter().map(|(uid, guests)| (*uid, guests.len()));
        let heavier = fairness::heavier_than(mine + 1, weights).into_iter();
        let first_of_each = heavier.filter_map(|uid| self.of(uid).iter().min_by_key(|guest| guest.order()));
        let mut strangers = first_of_each.clone().filter(|guest| !keep_a_seat_for(&guest.caller));
        let mut anybody = first_of_each.filter(|_| is_kept);
        strangers.next().or_else(|| anybody.next()).cloned()
    }

    fn leave(&mut self, guest: &Arc<Guest>) {
        if self.rise(guest) {
            self.leaving.push_back(Arc::clone(guest));
            guest.make_room();
            let over = (self.leaving.len() + 1).saturating_sub(LEAVING);
            self.leaving.iter().take(over).for_each(|guest| guest.cut_off());
        }
    }
}

impl Seat {
    /// Whose it is.
    pub fn guest(&self) -> &Guest {
        &self.guest
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken.lock();
        if !taken.rise(&self.guest) {
            taken.leaving.retain(|guest| !Arc::ptr_eq(guest, &self.guest));
            drop(taken);
            self.seats.left.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use super::*;
    use futures_util::FutureExt;

    const KEPT: u32 = 7;

    fn guest(uid: u32, last_used: u64) -> Arc<Guest> {
        let caller = Caller::described(uid, Vec::new(), None);
        Arc::new(Guest::new(caller, last_used))
    }

    fn seats(total: usize, per_uid: usize) -> Arc<Seats> {
        Seats::new(Bounds { total, per_uid })
    }

    fn take(seats: &Arc<Seats>, guest: &Arc<Guest>) -> Result<Seat, Rejection> {
        seats.take(guest, |caller| caller.uid == KEPT)
    }

    /// So many connections of this uid, the first the longest idle.
    fn fill(seats: &Arc<Seats>, uid: u32, count: u64) -> Vec<(Arc<Guest>, Seat)> {
        let guests = (0..count).map(|number| guest(uid, number));
        guests
            .map(|guest| (Arc::clone(&guest), take(seats, &guest).ok().unwrap()))
            .collect()
    }

    fn who_left(seated: &[(Arc<Guest>, Seat)]) -> Vec<usize> {
        let places = seated.iter().enumerate();
        places
            .filter(|(_, (guest, _))| guest.makes_room())
            .map(|(place, _)| place)
            .collect()
    }

    #[test]
    fn a_uid_gets_its_share() {
        let seats = seats(100, 2);
        let mut seated = fill(&seats, 1, 2);
        assert_eq!(take(&seats, &guest(1, 9)).err(), Some(Rejection::PerUid));
        fill(&seats, 2, 2);
        seated.pop();
        assert!(take(&seats, &guest(1, 9)).is_ok());
        assert_eq!(seats.taken(), 1);
    }

    #[test]
    fn when_all_are_taken_the_heaviest_makes_room_with_what_is_idle_for_longest() {
        let seats = seats(7, 7);
        let (heavy, light) = (fill(&seats, 1, 4), fill(&seats, 2, 3));
        heavy[0].0.set_waits(true);
        heavy[1].0.use_at(100);
        let newcomers: Vec<_> = (0..2).map(|_| take(&seats, &guest(3, 0)).ok().unwrap()).collect();
        assert_eq!((who_left(&heavy), who_left(&light)), (vec![2, 3], vec![]));
        let third = take(&seats, &guest(3, 0));
        assert_eq!(third.err(), Some(Rejection::Full), "nobody has more than one more");
        assert_eq!(seats.taken(), 7);
        drop(newcomers);
        assert_eq!(seats.taken(), 5);
    }

    #[test]
    fn what_waits_for_a_token_makes_room_where_nothing_is_idle() {
        let seats = seats(4, 4);
        let heavy = fill(&seats, 1, 4);
        for (guest, _) in &heavy {
            guest.set_waits(true);
        }
        let _newcomer = take(&seats, &guest(2, 0)).ok().unwrap();
        assert_eq!(who_left(&heavy), [0]);
    }

    #[test]
    fn some_are_kept_for_whom_a_rule_is_for_and_nobody_else_is_asked() {
        let seats = seats(16, 16);
        let asked = Cell::new(0);
        let take = |guest: &Arc<Guest>| {
            seats.take(guest, |caller| {
                asked.set(asked.get() + 1);
                caller.uid == KEPT
            })
        };
        let strangers: Vec<_> = (0..14).map(|uid| take(&guest(100 + uid, 0)).ok().unwrap()).collect();
        assert_eq!(asked.get(), 0, "there was room");
        assert_eq!(take(&guest(200, 0)).err(), Some(Rejection::Full));
        let kept: Vec<_> = (0..2).map(|_| take(&guest(KEPT, 0)).ok().unwrap()).collect();
        assert_eq!(take(&guest(KEPT, 0)).err(), Some(Rejection::Full));
        assert_eq!(seats.full_at(), Some(16));
        drop((strangers, kept));
        assert_eq!(seats.taken(), 0);
    }

    #[test]
    fn a_stranger_takes_no_seat_of_whom_one_is_kept_for_and_pays_first() {
        let full = seats(8, 8);
        let (kept, _stranger) = (fill(&full, KEPT, 6), fill(&full, 1, 1));
        assert_eq!(take(&full, &guest(2, 0)).err(), Some(Rejection::Full));
        assert!(who_left(&kept).is_empty());

        let seats = seats(8, 8);
        let (kept, strangers) = (fill(&seats, KEPT, 5), fill(&seats, 1, 2));
        let more = fill(&seats, KEPT, 1);
        let another = guest(3, 0);
        let judge = |caller: &Caller| [KEPT, 3].contains(&caller.uid);
        let _first = seats.take(&another, judge).ok().unwrap();
        assert_eq!(
            (who_left(&strangers), who_left(&kept)),
            (vec![0], vec![]),
            "the stranger first"
        );
        let _second = seats.take(&guest(3, 0), judge).ok().unwrap();
        assert_eq!(who_left(&kept), [0], "then the heaviest of all");
        assert!(who_left(&more).is_empty());
    }

    #[test]
    fn when_they_are_closed_all_connections_end_and_those_that_come_later_too() {
        let seats = seats(10, 10);
        let seated = fill(&seats, 1, 2);
        assert!(seated.iter().all(|(guest, _)| !guest.ends()));
        seats.close();
        let later = fill(&seats, 2, 1);
        assert!(seated.iter().chain(&later).all(|(guest, _)| guest.ends()));
    }

    #[tokio::test]
    async fn only_so_many_leave_at_once_and_the_first_is_cut_off_for_the_next() {
        let seats = seats(100, 100);
        let mut heavy = fill(&seats, 1, 88);
        let newcomers = fill(&seats, 2, 16);
        assert_eq!(who_left(&heavy).len(), 16);
        let full = tokio::time::timeout(Duration::ZERO, seats.free()).await;
        assert!(full.is_err(), "they have not ended yet");
        let cut = heavy
            .iter()
            .filter(|(guest, _)| guest.is_cut_off().now_or_never().is_some());
        assert_eq!(cut.count(), 1, "room for who comes next");
        heavy.remove(0);
        seats.free().await;
        drop(heavy);
        seats.free().await;
        drop(newcomers);
        assert_eq!(seats.taken(), 0);
    }
}
