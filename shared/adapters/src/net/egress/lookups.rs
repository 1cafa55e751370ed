//! How many lookups of names are under way.
//!
//! The system's resolver blocks a thread for as long as it takes, and nothing stops it: whoever waited has given up for
//! long. A name has one lookup at a time, whose answer all get who ask meanwhile; and all names together have
//! [`MAX_LOOKUPS`], so that threads are left for other work of the process.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{Semaphore, watch};

use super::{EgressError, Resolver};

/// Lookups at a time of all names.
const MAX_LOOKUPS: usize = 64;
/// Addresses of an answer that are looked at.
const MAX_ANSWER_ADDRESSES: usize = 16;

type Outcome = Result<Vec<IpAddr>, EgressError>;

/// The lookups of a process. Clones share them.
#[derive(Clone)]
pub(super) struct Lookups {
    resolver: Arc<dyn Resolver>,
    under_way: Arc<Mutex<HashMap<String, watch::Receiver<Option<Outcome>>>>>,
    permits: Arc<Semaphore>,
}

impl Lookups {
    pub(super) fn new(resolver: Arc<dyn Resolver>) -> Self {
        Self {
            resolver,
            under_way: Arc::default(),
            permits: Arc::new(Semaphore::new(MAX_LOOKUPS)),
        }
    }

    /// The addresses of `name`, by a lookup of its own or one that is under way.
    pub(super) async fn addresses(&self, name: &str) -> Outcome {
        let mut answer = self.join(name);
        match answer.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or(Err(EgressError::Unresolved)),
            // The lookup panicked.
            Err(_) => Err(EgressError::Unresolved),
        }
    }

    fn join(&self, name: &str) -> watch::Receiver<Option<Outcome>> {
        let mut under_way = self
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = under_way.get(name) {
            return answer.clone();
        }
        let (sender, receiver) = watch::channel(None);
        under_way.insert(name.to_owned(), receiver.clone());
        let (lookups, name) = (self.clone(), name.to_owned());
        // A task of its own: it goes on when whoever asked has given up, as the thread behind it does.
        tokio::spawn(async move {
            let listed = Listed {
                lookups: &lookups,
                name: &name,
            };
            // An error says that it was closed, which nobody does.
            let _permit = lookups.permits.acquire().await.ok();
            let outcome = first_addresses(lookups.resolver.resolve(&name).await);
            // Who asks from here on gets a new lookup.
            drop(listed);
            let _ = sender.send(Some(outcome));
        });
        receiver
    }
}

/// A name's entry in the list, until the lookup ends in whatever way.
struct Listed<'a> {
    lookups: &'a Lookups,
    name: &'a str,
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        let under_way = self.lookups.under_way.lock();
        let mut under_way = under_way.unwrap_or_else(PoisonError::into_inner);
        under_way.remove(self.name);
    }
}

fn first_addresses(resolved: io::Result<Vec<IpAddr>>) -> Outcome {
    let mut addresses = resolved.map_err(|_| EgressError::Unresolved)?;
    addresses.truncate(MAX_ANSWER_ADDRESSES);
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use async_trait::async_trait;
    use futures_util::future::join_all;
    use tokio::time::timeout;

    use super::*;

    /// Answers when it is let, and counts what is asked.
    #[derive(Default)]
    struct Scripted {
        asked: AtomicUsize,
        most: AtomicUsize,
        under_way: AtomicUsize,
        answers: Option<Arc<Semaphore>>,
    }

    #[async_trait]
    impl Resolver for Scripted {
        async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let now = self.under_way.fetch_add(1, Ordering::Relaxed) + 1;
            self.most.fetch_max(now, Ordering::Relaxed);
            if let Some(answers) = &self.answers {
                answers.acquire().await.unwrap().forget();
            }
            self.under_way.fetch_sub(1, Ordering::Relaxed);
            Ok(vec![IpAddr::from([192, 0, 2, 1]); 1_000])
        }
    }

    fn scripted() -> (Lookups, Arc<Scripted>, Arc<Semaphore>) {
        let answers = Arc::new(Semaphore::new(0));
        let resolver = Arc::new(Scripted {
            answers: Some(answers.clone()),
            ..Scripted::default()
        });
        (Lookups::new(resolver.clone()), resolver, answers)
    }

    #[tokio::test]
    async fn a_name_has_one_lookup_at_a_time_that_outlives_who_asked() {
        let (lookups, resolver, answers) = scripted();
        // The clock jumps as soon as everybody waits.
        tokio::time::pause();
        for _ in 0..100 {
            let asked = timeout(Duration::from_secs(4), lookups.addresses("slow.example"));
            assert!(asked.await.is_err());
        }
        assert_eq!(resolver.asked.load(Ordering::Relaxed), 1);

        let waiting = join_all((0..10).map(|_| lookups.addresses("slow.example")));
        answers.add_permits(1);
        assert!(waiting.await.iter().all(Result::is_ok));
        assert_eq!(resolver.asked.load(Ordering::Relaxed), 1);

        answers.add_permits(1);
        assert!(lookups.addresses("slow.example").await.is_ok());
        assert_eq!(resolver.asked.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn lookups_of_all_names_are_bounded() {
        let (lookups, resolver, answers) = scripted();
        let names: Vec<_> = (0..200).map(|n| format!("{n}.example")).collect();
        let waiting = join_all(names.iter().map(|name| lookups.addresses(name)));
        answers.add_permits(names.len());
        assert!(waiting.await.iter().all(Result::is_ok));
        assert_eq!(resolver.asked.load(Ordering::Relaxed), names.len());
        assert!(resolver.most.load(Ordering::Relaxed) <= MAX_LOOKUPS);
    }

    #[tokio::test]
    async fn of_a_long_answer_the_first_addresses_are_looked_at() {
        let lookups = Lookups::new(Arc::new(Scripted::default()));
        let addresses = lookups.addresses("many.example").await.unwrap();
        assert_eq!(addresses.len(), MAX_ANSWER_ADDRESSES);
    }
}
