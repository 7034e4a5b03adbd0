// KernelCache: what the kernel was given of this mount's inodes and names, and how it is taken back when a lock is let
// go. The eight rules of filesystem.md "The kernel's side" live here, on the Kernel seam, so that tests model the
// kernel (tests/fs/model_kernel.h). The FUSE glue tells it of every request and reply that matters:
//   DirRequest / PageRequest   while a request holds a directory's i_rwsem / page locks
//   GaveAttr, GaveEntry        before a reply: may the kernel keep it (unlimited timeout) or not (0)?
//   LookedUp, Forget           the kernel's lookup counts
// INVARIANT: what a reply allowed the kernel to keep is dropped before the lock that protects it is lost.
// Threading: one executor; the seam's calls run in a pool and may never return in time (rule 1, 2).
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/kernel.h"
#include "fs/interrupt.h"
#include "fs/lock_table.h"

namespace holdfast::fs {

struct KernelCacheKnobs {
  Duration notify_patience = Milliseconds(10);   // then a notification counts as blocked
  Duration reply_flight = Seconds(1);            // a reply sent this recently may not have been used yet
  Duration contended_quiet = Seconds(5);         // without epoch: entries get timeout 0 so long after contention,
  Duration contended_quiet_max = Seconds(300);   // twice as long each time
  size_t names_max = 2048;                       // more names in one directory are dropped by epoch
};

class KernelCache : public KernelHooks {
 public:
  KernelCache(Kernel& kernel, LockTable& locks, Clock& clock, KernelCacheKnobs knobs = {});
  ~KernelCache() override;

  // The root's node id is 1, whatever its block. Before the first request.
  void SetRoot(InodeNo root) {
    root_ = root;
    by_block_[root.v] = 1;
    nodes_[1].lookups = 1;  // known from the mount on, never looked up, never forgotten
  }

  // ---- requests that hold kernel locks --------------------------------------------------------------------------
  // CREATE, MKDIR, UNLINK, RENAME, LINK, LOOKUP, READDIR(PLUS), SETATTR or FSYNC of a directory: from arrival to reply.
  enum class Holds : uint8_t {
    kThis,     // i_rwsem of the directory that it names
    kAnother,  // maybe another one's too: RMDIR and RENAME of that directory, the LOOKUPs of a rename
    kPatient,  // READDIR, FSYNC: the caller has no path to begin anew with; never answered ESTALE
  };
  class DirRequest {
   public:
    DirRequest() = default;
    // interrupt: of the request, if it has one; it lives as long.
    DirRequest(KernelCache* cache, KernelInode dir, Interrupt* interrupt = nullptr, Holds holds = Holds::kThis);
    DirRequest(DirRequest&& o) noexcept
        : cache_(std::exchange(o.cache_, nullptr)), dir_(o.dir_), interrupt_(o.interrupt_) {}
    DirRequest& operator=(DirRequest&&) = delete;
    ~DirRequest();

   private:
    KernelCache* cache_ = nullptr;
    KernelInode dir_ = 0;
    Interrupt* interrupt_ = nullptr;
  };
  // READ or WRITE of the page cache: from arrival to reply.
  class PageRequest {
   public:
    // dirty: a whole page of a mapping, written back.
    PageRequest(KernelCache* cache, KernelInode inode, uint64_t offset, uint64_t length, bool write, bool dirty = false);
    PageRequest(PageRequest&& o) noexcept : cache_(std::exchange(o.cache_, nullptr)), inode_(o.inode_), id_(o.id_) {}
    PageRequest& operator=(PageRequest&&) = delete;
    ~PageRequest();

   private:
    KernelCache* cache_ = nullptr;
    KernelInode inode_ = 0;
    uint64_t id_ = 0;
  };
  // Without the epoch: are names of that directory being dropped, and somebody was answered ESTALE for it? Each name needs
  // i_rwsem, and one ESTALE is all that a caller can bear: whoever walks there again is held back until they are gone.
  bool Hurts(KernelInode dir) const {
    auto it = nodes_.find(dir);
    return it != nodes_.end() && it->second.stale_drop;
  }
  // Rule 2: after two rounds new page READs are held back. Returns at once when the gate is open.
  Task<void> ReadGate(KernelInode inode);

  // ---- replies --------------------------------------------------------------------------------------------------
  // Call immediately before the reply. True: unlimited timeout, remembered; false: timeout 0.
  bool GaveAttr(KernelInode inode, uint64_t acquisition, uint32_t mode);
  // Did the attributes given last have set-id bits? (A write that clears them must be told to the kernel.)
  bool SetIdGiven(KernelInode inode) const;
  bool GaveEntry(KernelInode parent, uint64_t parent_acquisition, std::string_view name, KernelInode child, bool is_dir);
  // The same for a name in READDIRPLUS.
  bool GavePlusEntry(KernelInode parent, uint64_t parent_acquisition, std::string_view name, KernelInode child,
                     bool is_dir);
  bool GaveNegative(KernelInode parent, uint64_t parent_acquisition, std::string_view name);
  // The kernel moves a dentry with the timeout that it has; if the new parent's lock is gone already, it must ask.
  void Renamed(KernelInode parent, uint64_t parent_acquisition, std::string_view name, KernelInode child, bool is_dir);
  // Pages may be cached from now on: OPEN of a cached handle, a page READ, a fault.
  void GavePages(KernelInode inode);
  // May the kernel have pages of it?
  bool HasPages(KernelInode inode) const {
    auto it = nodes_.find(inode);
    return it != nodes_.end() && it->second.pages;
  }
  void LookedUp(KernelInode inode);
  // A cached handle of it was opened, closed: reads through it end at the size that the kernel believes in.
  void OpenedCached(KernelInode inode) {
    ++Get(inode).cached_handles;
    GavePages(inode);
  }
  void ClosedCached(KernelInode inode);
  // True when the kernel knows the inode no more.
  bool Forget(KernelInode inode, uint64_t count);
  bool Knows(KernelInode inode) const { return nodes_.contains(inode); }

  InodeNo NumberOf(KernelInode inode) const { return InodeNo(ResourceOfNode(inode).number); }
  // Asked immediately before a page READ is answered; false: read it again.
  bool PageReplyValid(KernelInode inode, uint64_t acquisition, LockMode mode) const {
    return locks_.PageReplyValid(ResourceOfNode(inode), acquisition, mode);
  }
  // Held in EX, without a break since that acquisition?
  bool HeldEx(KernelInode inode, uint64_t acquisition) const {
    Resource resource = ResourceOfNode(inode);
    return locks_.Valid(resource, acquisition) && locks_.Held(resource) == LockMode::kEx;
  }

  // ---- writable handles (rule 5) --------------------------------------------------------------------------------
  void OpenedForWriting(KernelInode inode) { ++Get(inode).writable; }
  void ClosedForWriting(KernelInode inode);
  bool OpenForWriting(KernelInode inode) const;
  // What a page READ must hold.
  LockMode PageReadMode(KernelInode inode) const { return OpenForWriting(inode) ? LockMode::kEx : LockMode::kPr; }

  // ---- the size (kernel_size.cc) ----------------------------------------------------------------------------------
  // Immediately before a reply: attributes with this size go out; the kernel takes them, or not (see TellSize).
  void GaveSize(KernelInode inode, uint64_t size);
  // The same for a page READ that ends early: the file, the kernel thinks, ends there.
  void ReadEndsAt(KernelInode inode, uint64_t end) {
    if (Knows(inode)) GaveSize(inode, end);
  }
  // The same for what the kernel takes in any case: truncation, O_TRUNC.
  void TruncatedTo(KernelInode inode, uint64_t size);
  // Immediately before a WRITE is answered whose end, where the kernel believes it to be, is this.
  void WroteTo(KernelInode inode, uint64_t end);
  // Returns when the kernel has this size, or a newer one, if cached reads depend on it. Before a GETATTR is answered.
  // Ends without that where the kernel cannot be asked, or lets every answer be overtaken (counters().sizes_unsure).
  Task<Status> TellSize(KernelInode inode, uint32_t generation, uint64_t size);
  // Before a WRITE is answered: its end would overtake the answer that TellSize waits for. Short.
  Task<void> LetSizeArrive(KernelInode inode);

  // Rule 4: bytes were written where the kernel did not expect them; also attributes that it does not know changed.
  Task<void> DropRange(KernelInode inode, int64_t offset, int64_t length);

  // ---- letting go -----------------------------------------------------------------------------------------------
  bool NeedsDrop(Resource resource, LockMode from, LockMode to) override;
  Task<Status> DropKernel(Resource resource, LockMode from, LockMode to) override;
  // Everything: lease end, withdraw. Does not wait for what is blocked.
  void DropAll();

  // Called for every inode that the kernel learns of or forgets (the supervisor's shared table).
  void SetKnownCallback(std::function<void(KernelInode, bool known)> callback) { known_ = std::move(callback); }

  struct Counters {
    uint64_t inode_drops = 0, entry_drops = 0, epochs = 0, estale = 0, retries = 0, gated_reads = 0, left_out = 0;
    uint64_t sizes_told = 0, sizes_overtaken = 0, sizes_unsure = 0;
  };
  const Counters& counters() const { return counters_; }

 private:
  // A notification in flight; it may outlive the round that sent it.
  struct Notice {
    bool done = false;
    Status status;
    std::shared_ptr<Completion<bool>> waker;
  };
  struct Pages {
    uint64_t offset = 0, length = 0;
    bool write = false;
    bool dirty = false;
    std::shared_ptr<Notice> notice;  // of a WRITE's last page, which may be locked until the reply or not
  };
  struct Node {
    uint64_t lookups = 0;
    uint32_t writable = 0;
    uint32_t cached_handles = 0;
    std::optional<uint64_t> size;  // i_size, when it is certain
    uint64_t size_events = 0;      // of what may change it
    bool telling = false;          // TellSize is under way
    WaitList told;
    bool attr = false;
    bool set_id = false;
    bool pages = false;
    bool gate_closed = false;
    bool names_overflow = false;
    bool stale_drop = false;
    uint64_t page_events = 0;  // page requests that arrived or were answered
    std::map<uint64_t, Pages> page_requests;
    std::unordered_map<std::string, bool> names;  // -> is a directory
    size_t dir_requests = 0;
    Instant revalidated;  // last reply of an entry timeout for a child that the kernel already knew
    bool revalidated_ever = false;
    Instant plus;  // last READDIRPLUS reply with entry timeouts
    bool plus_ever = false;
    Instant contended;
    Duration quiet{};  // from then on; none: never contended
    WaitList gate;
    std::weak_ptr<Notice> names_notice;  // DropEntries under way: an arriving DirRequest may block it
    size_t drops = 0;                    // DropKernel coroutines that use this node
    bool used() const {
      return lookups > 0 || writable > 0 || dir_requests > 0 || !page_requests.empty() || drops > 0 || attr ||
             cached_handles > 0 || telling || pages || !names.empty() || names_overflow;
    }
  };
  Resource ResourceOfNode(KernelInode inode) const;
  Node& Get(KernelInode inode) { return nodes_[inode]; }
  Node* Find(KernelInode inode);
  void Tidy(KernelInode inode);
  bool KeepName(Node& dir, std::string_view name, bool is_dir);
  bool Contended(const Node& dir) const;
  Task<Status> DropPages(KernelInode inode, Resource resource, LockMode from);
  std::vector<std::pair<uint64_t, uint64_t>> LeftOut(Node& node, KernelInode inode, LockMode from,
                                                     std::vector<std::shared_ptr<Notice>>* own);
  Task<Status> DropAttr(KernelInode inode);
  Task<Status> DropNames(KernelInode inode, Resource resource);
  Task<void> AwaitListing(KernelInode inode, std::shared_ptr<Notice> notice);
  void AnswerStale(KernelInode inode, Resource resource, Instant begun);
  void Contend(Node& dir);
  Task<void> DropEarly(KernelInode inode);
  Task<bool> Await(std::shared_ptr<Notice> notice, Duration patience);
  std::shared_ptr<Notice> Start(Task<Status> call);
  std::shared_ptr<Notice> NotifyInode(KernelInode inode, int64_t offset, int64_t length);
  static void Nudge(Notice& notice);
  static Task<void> RunNotice(std::shared_ptr<Notice> notice, Task<Status> call);

  Kernel& kernel_;
  LockTable& locks_;
  Clock& clock_;
  KernelCacheKnobs knobs_;
  std::unordered_map<KernelInode, Node> nodes_;
  // What may be answered ESTALE, by the directory that it names.
  struct Held {
    Interrupt* interrupt = nullptr;
    Instant since;
    bool another = false;
  };
  std::map<KernelInode, std::vector<Held>> held_;
  InodeNo root_;
  std::unordered_map<uint64_t, KernelInode> by_block_;
  std::function<void(KernelInode, bool)> known_;
  uint64_t next_page_request_ = 1;
  Counters counters_;
  Scope scope_;
};

// FUSE node id <-> block. The root's node id is 1, whatever its block; set once at mount.
inline constexpr KernelInode kKernelRoot = 1;
inline constexpr uint64_t kKernelBlockMask = (uint64_t{1} << 48) - 1;

}  // namespace holdfast::fs
