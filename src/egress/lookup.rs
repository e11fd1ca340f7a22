//! Look-ups of names by the host's own name service, so many at once for one bottle and for all, each for so long.
//!
//! The C library's look-up blocks a thread and cannot be called off: one that nobody waits for any more goes on until the
//! library gives up, and holds its places for as long. So whoever asks for names whose servers never answer waits for
//! himself, and for nobody else. Keeps no answer: each connection looks anew.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

/// Look-ups of one bottle under way at once.
pub(super) const OF_ONE: usize = 16;
/// Look-ups of all bottles: half of the threads that the runtime blocks at most, so that there are some for everything else.
pub(super) const OF_ALL: usize = 256;

/// Look-ups of the upstream proxy's own name, for all bottles.
pub(super) const OF_PROXIES: usize = 64;

static ALL: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(OF_ALL)));
static PROXIES: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(OF_PROXIES)));

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// Too many look-ups are under way, and none ended in time.
    #[error("too many names are being looked up")]
    Full,
    /// It takes too long.
    #[error("no answer in time")]
    Late,
    /// The name service says so.
    #[error(transparent)]
    Failed(#[from] io::Error),
}

/// The look-ups of one bottle. Its clones are of the same one.
#[derive(Clone, Debug)]
pub struct Lookups {
    own: Arc<Semaphore>,
    all: Arc<Semaphore>,
}

impl Default for Lookups {
    fn default() -> Self {
        Lookups { own: Arc::new(Semaphore::new(OF_ONE)), all: Arc::clone(&ALL) }
    }
}

impl Lookups {
    /// Makes those of the host's upstream proxy for one bottle. They take no place of what bottles ask for: names whose servers never
    /// answer, of whichever bottle, keep nobody from the proxy.
    pub fn of_the_proxy() -> Lookups {
        Lookups { own: Arc::new(Semaphore::new(OF_ONE)), all: Arc::clone(&PROXIES) }
    }

    /// Gets the addresses of `name`, within `limit`.
    pub async fn look_up(&self, name: &str, port: u16, limit: Duration) -> Result<Vec<SocketAddr>, LookupError> {
        // The trailing dot keeps the host's search domains out.
        let target = (format!("{name}."), port);
        self.ask(limit, move || Ok(target.to_socket_addrs()?.collect())).await
    }

    async fn ask<T: Send + 'static>(
        &self,
        limit: Duration,
        blocking: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, LookupError> {
        let deadline = Instant::now() + limit;
        let places = async {
            // Its own first: who waits for one of these keeps none of the others' from anybody.
            let own = Arc::clone(&self.own).acquire_owned().await;
            (own, Arc::clone(&self.all).acquire_owned().await)
        };
        let places = timeout_at(deadline, places).await.map_err(|_| LookupError::Full)?;
        let work = tokio::task::spawn_blocking(move || {
            let found = blocking();
            drop(places);
            found
        });
        let found = timeout_at(deadline, work).await.map_err(|_| LookupError::Late)?;
        Ok(found.map_err(io::Error::other)??)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    /// More than this test could take on any machine.
    const LONG: Duration = Duration::from_secs(300);

    fn bottles(of_one: usize, of_all: usize) -> [Lookups; 2] {
        let all = Arc::new(Semaphore::new(of_all));
        [(); 2].map(|()| Lookups { own: Arc::new(Semaphore::new(of_one)), all: Arc::clone(&all) })
    }

    /// A name service that answers when it is told to.
    struct Slow {
        begun: Arc<AtomicUsize>,
        answers: Arc<std::sync::Mutex<mpsc::Receiver<()>>>,
        answer: mpsc::Sender<()>,
    }

    impl Slow {
        fn new() -> Slow {
            let (answer, answers) = mpsc::channel();
            Slow { begun: Arc::default(), answers: Arc::new(std::sync::Mutex::new(answers)), answer }
        }

        fn asked(&self) -> impl FnOnce() -> io::Result<()> + Send + 'static {
            let (begun, answers) = (Arc::clone(&self.begun), Arc::clone(&self.answers));
            move || {
                begun.fetch_add(1, Ordering::SeqCst);
                let _ = answers.lock().unwrap().recv();
                Ok(())
            }
        }

        async fn begun(&self, number: usize) {
            while self.begun.load(Ordering::SeqCst) < number {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    #[tokio::test]
    async fn the_proxys_name_has_places_that_no_bottle_can_take() {
        let (bottle, proxy) = (Lookups::default(), Lookups::of_the_proxy());
        let _own = bottle.own.acquire_many(OF_ONE as u32).await.unwrap();
        assert!(matches!(bottle.ask(Duration::from_millis(20), || Ok(())).await, Err(LookupError::Full)));
        proxy.ask(LONG, || Ok(())).await.unwrap();
        assert!(!Arc::ptr_eq(&bottle.all, &proxy.all), "nor can all of them together");
    }

    #[tokio::test]
    async fn one_bottles_slow_names_hold_up_nobody_else() {
        let [slow_one, other] = bottles(3, 8);
        let slow = Slow::new();
        let waiting: Vec<_> = (0..10)
            .map(|_| {
                let (lookups, asked) = (slow_one.clone(), slow.asked());
                tokio::spawn(async move { lookups.ask(LONG, asked).await })
            })
            .collect();
        slow.begun(3).await;
        for _ in 0..20 {
            other.ask(LONG, || Ok(())).await.unwrap();
        }
        assert_eq!(slow.begun.load(Ordering::SeqCst), 3, "the others of the slow one wait");
        for _ in 0..10 {
            slow.answer.send(()).unwrap();
        }
        for one in waiting {
            one.await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn a_look_up_that_nobody_waits_for_keeps_its_place_until_it_ends() {
        let [bottle, other] = bottles(2, 3);
        let slow = Slow::new();
        let soon = Duration::from_millis(20);
        for _ in 0..2 {
            assert!(matches!(bottle.ask(soon, slow.asked()).await, Err(LookupError::Late | LookupError::Full)));
        }
        slow.begun(2).await;
        assert!(matches!(bottle.ask(soon, || Ok(())).await, Err(LookupError::Full)));
        other.ask(LONG, || Ok(())).await.unwrap();
        // Nor does one that was given up by its caller.
        slow.answer.send(()).unwrap();
        let given_up = tokio::spawn({
            let (bottle, asked) = (bottle.clone(), slow.asked());
            async move { bottle.ask(LONG, asked).await }
        });
        slow.begun(3).await;
        given_up.abort();
        assert!(matches!(bottle.ask(soon, || Ok(())).await, Err(LookupError::Full)));
        for _ in 0..2 {
            slow.answer.send(()).unwrap();
        }
        bottle.ask(LONG, || Ok(())).await.unwrap();
    }

    #[tokio::test]
    async fn all_bottles_together_are_bounded_too() {
        let [one, other] = bottles(8, 2);
        let slow = Slow::new();
        let asked: Vec<_> = [&one, &other]
            .map(|bottle| {
                let (bottle, asked) = (bottle.clone(), slow.asked());
                tokio::spawn(async move { bottle.ask(LONG, asked).await })
            })
            .into();
        slow.begun(2).await;
        assert!(matches!(one.ask(Duration::from_millis(20), || Ok(())).await, Err(LookupError::Full)));
        // Whichever takes an answer: all have theirs before any is waited for.
        asked.iter().for_each(|_| slow.answer.send(()).unwrap());
        for one in asked {
            one.await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn a_name_of_this_machine_is_found_and_what_fails_says_so() {
        let found = Lookups::default().look_up("localhost", 80, LONG).await;
        // A resolver without an entry for it refuses.
        assert!(found.map_or(true, |found| found.iter().all(|a| a.ip().is_loopback() && a.port() == 80)));
        let failed = Lookups::default().ask(LONG, || Err::<(), _>(io::Error::other("no such name"))).await;
        assert_eq!(failed.unwrap_err().to_string(), "no such name");
    }
}
