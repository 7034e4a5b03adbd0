// Vfs: the operations of a mount on files, directories, links, attributes and data, as a FUSE low-level server (or a
// test) calls them. Free of FUSE: names and plain values in, Result out; errno only in the glue.
//
// Each operation takes its cluster locks through the lock table (order: rename; directories parents first; files, two
// by number; groups; open-locks), checks that what it locked is still what was named (generation; kStale), reserves
// space, and changes metadata in one journal transaction (truncation and freeing of large files: several). It returns
// with no lock held. Written data waits in our buffers under EX until fsync, letting go, age or pressure.
// An operation whose Interrupt is raised while it waits for a lock or for space ends with kInterrupted, nothing changed (a
// truncation or preallocation may have been done in part).
// Common errors: kStale, kIo, kCorrupt (both withdraw the mount), kFenced, kNoSpace, kNotDirectory, kInterrupted.
// Threading: one executor. Buffers given to Read and Write live until the call returns.
// Files: vfs_names.cc, vfs_rename.cc, vfs_attr.cc, vfs_data.cc, vfs_space.cc, vfs_dir.cc, vfs_xattr.cc, vfs_handles.cc,
// vfs_sync.cc.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/task.h"
#include "fs/vfs_types.h"

namespace holdfast::fs {

class VfsCore;     // vfs_core.h: the parts of a mount and the inodes in memory
class LockHooks;   // lock_table.h
struct VfsParts;   // vfs_core.h

class Vfs {
 public:
  explicit Vfs(VfsParts parts);
  ~Vfs();

  // Checks the root directory, adopts the orphans of our own journal, starts the flusher and the reaper.
  Task<Status> Start();
  // Takes over the orphan list of a dead mount. REQUIRES: its journal has been replayed, its lock is held EX.
  Task<Status> AdoptOrphans(MountNo journal, Interrupt* interrupt = nullptr);
  // Everything written is durable and in place; no operation may run any more. Background work has ended.
  Task<Status> Stop();
  // Withdraw: background work ends without touching the disk; dirty data is dropped.
  Task<void> Abandon();

  // To be registered for LockType::kInode (the hooks call A's journal and cache themselves).
  LockHooks* inode_hooks();

  // ---- names ----------------------------------------------------------------------------------------------------
  // No such name is not an error: Entry::found() is false. "." (also of an inode never given out: NFS) and ".." work.
  Task<Result<Entry>> Lookup(KernelInode parent, std::string name, Interrupt* interrupt = nullptr);
  // mode carries the format bits: regular, fifo, socket, character and block device. Error: kExists.
  Task<Result<Entry>> MakeNode(KernelInode parent, std::string name, uint32_t mode, uint64_t rdev, Caller caller);
  Task<Result<Entry>> MakeDir(KernelInode parent, std::string name, uint32_t mode, Caller caller);
  Task<Result<Entry>> Symlink(KernelInode parent, std::string name, std::string target, Caller caller);
  // A new regular file, opened (Release() follows). exclusive: kExists if there is one; else that one is opened.
  Task<Result<Entry>> Create(KernelInode parent, std::string name, uint32_t mode, bool exclusive, Caller caller,
                             OpenOptions options);
  // O_TMPFILE: a regular file without a name, opened.
  Task<Result<Entry>> TmpFile(KernelInode parent, uint32_t mode, Caller caller);
  // Errors: kTooManyLinks, kExists, kPermission (a directory), kStale (no links left and not a tmpfile).
  Task<Result<Entry>> Link(KernelInode inode, KernelInode new_parent, std::string new_name, Interrupt* interrupt = nullptr);
  Task<Result<RemoveResult>> Unlink(KernelInode parent, std::string name, Interrupt* interrupt = nullptr);
  Task<Result<RemoveResult>> RemoveDir(KernelInode parent, std::string name, Interrupt* interrupt = nullptr);
  // flags of RenameFlag; kInvalid for whiteout and for moving a directory below itself.
  Task<Result<RenameResult>> Rename(KernelInode parent, std::string name, KernelInode new_parent,
                                    std::string new_name, uint32_t flags, Interrupt* interrupt = nullptr);
  Task<Result<std::string>> ReadLink(KernelInode inode, Interrupt* interrupt = nullptr);

  // ---- attributes -----------------------------------------------------------------------------------------------
  Task<Result<Attr>> GetAttr(KernelInode inode, Interrupt* interrupt = nullptr);
  Task<Result<Attr>> Set(KernelInode inode, SetAttr set, Interrupt* interrupt = nullptr);
  Task<Result<StatFs>> GetStatFs();

  // ---- open files -----------------------------------------------------------------------------------------------
  // write: tries EX without waiting, takes PR if that fails (truncate: EX). Release() once for each success.
  Task<Result<OpenResult>> Open(KernelInode inode, OpenOptions options);
  // The last close of an unlinked inode frees it (in the background).
  Task<Status> Release(KernelInode inode);
  // The kernel dropped its last lookup of it.
  void Forget(KernelInode inode);
  // Somebody may have closed an orphan of ours elsewhere (an application message of the lockspace).
  void ReapAgain(InodeNo inode);

  // ---- data -----------------------------------------------------------------------------------------------------
  // Straight from the disk into `out` where out, offset and length are kBlockSize aligned.
  Task<Result<ReadResult>> Read(KernelInode inode, uint64_t offset, std::span<std::byte> out, ReadOptions options);
  Task<Result<WriteResult>> Write(KernelInode inode, uint64_t offset, std::span<const std::byte> in,
                                  WriteOptions options);
  Task<Result<Attr>> Fallocate(KernelInode inode, uint64_t offset, uint64_t length, uint32_t flags,
                    Interrupt* interrupt = nullptr);
  // SEEK_DATA / SEEK_HOLE. Error kNoData: nothing of the kind before the end of the file (ENXIO).
  Task<Result<uint64_t>> SeekData(KernelInode inode, uint64_t offset, Interrupt* interrupt = nullptr);
  Task<Result<uint64_t>> SeekHole(KernelInode inode, uint64_t offset, Interrupt* interrupt = nullptr);

  // ---- durability -----------------------------------------------------------------------------------------------
  // File or directory: data and metadata, also what another mount had written before (takes PR first).
  Task<Status> Fsync(KernelInode inode, bool data_only, Interrupt* interrupt = nullptr);
  // close(2): nothing must be durable; errors of earlier write-back come out here and at Fsync, once.
  Task<Status> Flush(KernelInode inode);
  Task<Status> SyncFs();

  // ---- directories ----------------------------------------------------------------------------------------------
  Task<Result<DirPage>> ReadDir(KernelInode inode, ReadDirOptions options);

  // ---- extended attributes --------------------------------------------------------------------------------------
  // Full names ("user.x"). Errors: kNoData (no such), kExists / kNoData by mode, kRange (value longer than 64 KiB).
  Task<Result<Bytes>> GetXattr(KernelInode inode, std::string name, Interrupt* interrupt = nullptr);
  Task<Status> SetXattr(KernelInode inode, std::string name, Bytes value, XattrMode mode, Interrupt* interrupt = nullptr);
  Task<Status> RemoveXattr(KernelInode inode, std::string name, Interrupt* interrupt = nullptr);
  Task<Result<std::vector<std::string>>> ListXattr(KernelInode inode, Interrupt* interrupt = nullptr);

  VfsCore& core() { return *core_; }

 private:
  std::unique_ptr<VfsCore> core_;
};

}  // namespace holdfast::fs
