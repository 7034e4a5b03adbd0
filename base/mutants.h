// Mutants: known bugs behind switches, compiled only into simulator builds (HF_MUTANTS), where a campaign proves that its
// checkers catch each of them (tests/whole, "whole mutants"). In every other build HF_MUTANT(x) is the constant false. One per
// rule that was paid for and per ordering that matters. dlm/mutants.h and cluster/mutants.h have those of the pure cores.
#pragma once

namespace holdfast {

enum class Mutant {
  kNone,
  kAdoptBeforeBury,      // orphans and claims of one victim are adopted before the next is replayed
  kAdoptionHoldsOn,      // an adoption is not interrupted when its journal is owed again
  kReplayOlder,          // images are written over newer blocks
  kReplayCleanEarly,     // the journal is marked clean before the replayed images are flushed
  kReplayOrdinaryLock,   // the replay's lock waits behind the gates
  kTokenBeforeProof,     // the fence token is written before anything was done
  kNoDrain,              // what the array had accepted is not waited for
  kPreemptsDaemonOnly,   // the victim's mounts keep their keys
  kReadersEndAtOnce,     // the second gate does not wait for lease and margin
  kMountNotProven,       // a dead mount on a living node counts as gone at once
  kLeaseNotEnforced,     // submits after the lease's end
  kLetGoUnwritten,       // EX goes without writing in place
  kLetGoUnforgotten,     // caches outlive the lock
  kTailEarly,            // the tail moves before what it leaves is in place
  kSyncUnflushed,        // fsync answers without a commit
  kClaimsUnwritten,      // blocks taken for data are nowhere on disk
  kNoVersionFloor,       // a block used again starts its versions anew
  kReapsOpenFiles,       // an orphan is freed while another mount has it open
  kFsyncOwnOnly,         // fsync with nothing dirty here does not reach what another mount has written
  kMetaFreeAtOnce,       // a freed metadata block is free for data at once
  kMetaFreeUnasked,      // the same as soon as this journal is past it, whatever the others' hold
  kFreedStaysPending,    // a freed block is written in place later all the same
  kHandOverUnflushed,    // what is handed over is in the array's cache alone
  kReplayAnyOwner,       // a journal is replayed whoever has stamped it
  kWrittenUnordered,     // unwritten space becomes readable before its data
  kReuseUndurable,       // freed data is used again before a crash can no more give it back
  kTakenUnlisted,        // blocks taken for data and in no file yet are not listed as claims
  kNoDrainAtReconnect,   // a lost session's writes are not waited for
  kUnflushedForgotten,   // what was written and not flushed is not written again after a lost session
  kTypeFive,             // a reservation that goes with its holder's clean leave
  kBytesNotAwaited,      // a victim's byte of the image counts as free at once
  kAppendAtOffset,       // O_APPEND goes where the kernel believes the end to be
  // The kernel's side (filesystem.md, rules 1 to 5).
  kAwaitNamesForEver,    // dropping a name waits for i_rwsem however long, nobody is told ESTALE
  kStaleByLockOnly,      // only what waits for the directory's own lock is told ESTALE
  kForgetReplies,        // replies under way do not count: neither epoch nor a second try
  kUnknownIsDone,        // inval_inode's -ENOENT counts as done although a reply is under way
  kKeepsLinkAttr,        // LINK and SETATTR give attributes to keep
  kNegativesUntracked,   // absent names are given out and never taken back
  kRenamesUntracked,     // a moved name keeps its timeout and is not one of the new directory
  kPagesNotAwaited,      // the lock goes while the invalidation of its pages is still under way
  kPageRepliesUnchecked, // a page READ is answered though its lock has gone
  kPagesUnderPr,         // page READs take PR while the file is open for writing
  kKeepsPagesWithoutEx,  // opened for writing without EX: a cached handle that keeps its pages
  kCachesAppends,        // O_APPEND handles go through the page cache
  kAppendRangeKept,      // the true range of an append stays cached
  kPageWritesLeftOut,    // a dirty page's WRITE may come after its lock has gone
  kAdmitsUnderPr,        // page READs that want EX are served under PR as soon as a notification is late
  kSizeNotTold,          // a GETATTR whose answer the kernel drops leaves it with the old size
  kCreateOpensAll,       // O_CREAT opens whatever it finds
  kEnd,
};

#ifdef HF_MUTANTS
inline Mutant g_whole_mutant = Mutant::kNone;
#define HF_MUTANT(name) (::holdfast::g_whole_mutant == ::holdfast::Mutant::name)
#else
#define HF_MUTANT(name) false
#endif

}  // namespace holdfast
