import { $ } from "bun";

const author = ["-c", "user.name=test", "-c", "user.email=test@localhost"];

/** Commits what is in `src`, on a branch of a new repository. */
export async function commit(folder: string, branch: string): Promise<void> {
  await $`git init --quiet --initial-branch=${branch}`.cwd(folder);
  await $`git add --all -- src`.cwd(folder);
  await $`git ${author} commit --quiet --message=test`.cwd(folder);
}
