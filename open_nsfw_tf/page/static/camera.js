/** Pictures from the camera, in a dialog. */

/**
 * @param {HTMLDialogElement} dialog of the page.
 * @param {(picture: ImageData, name: string) => void} take gets each picture.
 */
export async function openCamera(dialog, take) {
  const [video, error, shoot, leave] = ["#video", "#booth-error", "#shoot", "#leave"].map(
    (selector) => dialog.querySelector(selector),
  );
  error.textContent = "";
  shoot.disabled = true;
  leave.onclick = () => dialog.close();
  dialog.showModal();
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: true });
  } catch {
    error.textContent = "There is no camera, or the browser does not let the page use it.";
    return;
  }
  const stop = () => stream.getTracks().forEach((track) => track.stop());
  if (!dialog.open) return stop();
  dialog.addEventListener("close", stop, { once: true });
  video.srcObject = stream;
  try {
    await video.play();
  } catch {
    stop();
    error.textContent = "The browser does not show what the camera sees.";
    return;
  }
  shoot.disabled = false;
  shoot.onclick = () => take(pixelsOf(video), `camera ${new Date().toLocaleTimeString("en-GB")}`);
}

function pixelsOf(video) {
  const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
  const context = canvas.getContext("2d");
  context.drawImage(video, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}
